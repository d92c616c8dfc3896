#!/bin/sh
# Another version in the place of this one, as root: deploy/upgrade.sh [VERSION]
#
# VERSION is a tag, a branch or a commit; without one it is the newest of the branch that is checked out. A
# backup comes first, and where anything fails the site stays as it is, or says what to do.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
FER_ENV_FILE=${FER_ENV_FILE:-/etc/fmpn-fer/env}
export FER_ENV_FILE
before=$(git rev-parse HEAD)

echo "Backup ..."
systemctl start fmpn-fer-backup.service

echo "Fetching ..."
git fetch --quiet --tags
if [ -n "${1:-}" ]; then
  git checkout --quiet "$1"
fi
if git symbolic-ref --quiet HEAD > /dev/null; then
  git merge --quiet --ff-only # a branch: to what was fetched of it
elif [ -z "${1:-}" ]; then
  echo "No branch is checked out, but a tag or a commit. Say which is wanted: deploy/upgrade.sh main" >&2
  exit 1
fi
again() { echo "Not finished. Back to the old version: deploy/upgrade.sh $before" >&2; }
trap 'again' EXIT

python3 install.py
cp deploy/systemd/*.service deploy/systemd/*.timer deploy/systemd/*.target /etc/systemd/system/
cp -r deploy/systemd/fmpn-fer-.service.d /etc/systemd/system/
systemctl daemon-reload

# The old processes must not meet the new tables. What waits in the queues waits on.
echo "Restarting ..."
systemctl stop fmpn-fer.target 'fmpn-fer-*.service' # for the target alone it would not wait
deploy/manage.sh migrate --verbosity 0
deploy/manage.sh check --deploy --fail-level WARNING
systemctl start fmpn-fer.target

for _ in $(seq 60); do
  if python3 -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8000/readyz", timeout=5)' 2>/dev/null; then
    trap - EXIT
    echo "$(git describe --tags --always) is running."
    exit 0
  fi
  sleep 2
done
echo "The site does not answer: journalctl --unit 'fmpn-fer-*' --since -5min" >&2
exit 1
