#!/bin/sh
# Another version in the place of this one, as root: deploy/upgrade.sh [VERSION]
#
# VERSION is a tag, a branch or a commit; without one it is the newest of the branch that is checked out. A
# backup comes first; then the site stops, is brought up to date and starts again. Where anything fails after
# that, it prints the lines that lead back.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
FER_ENV_FILE=${FER_ENV_FILE:-/etc/fmpn-fer/env}
export FER_ENV_FILE
before=$(git rev-parse HEAD)

echo "Backup ..."
systemctl start fmpn-fer-backup.service
# The way back needs this very file: whoever tries again makes newer ones, of the new tables.
backup=$(find /var/lib/fmpn-fer-backups -maxdepth 1 -name 'fmpn-fer-*.tar.gz' | sort | tail -n 1)
[ -n "$backup" ] || { echo "/var/lib/fmpn-fer-backups holds no backup." >&2; exit 1; }

echo "Fetching ..."
git fetch --quiet --tags
if [ -n "${1:-}" ]; then
  git rev-parse --quiet --verify "$1^{commit}" > /dev/null || git rev-parse --verify "origin/$1^{commit}" > /dev/null
elif ! git symbolic-ref --quiet HEAD > /dev/null; then
  echo "No branch is checked out, but a tag or a commit. Say which is wanted: deploy/upgrade.sh main" >&2
  exit 1
fi
# What would keep git from bringing the code up to date is said while the site still runs.
git diff --quiet HEAD || { echo "Files of this checkout were changed (git diff): undo that first." >&2; exit 1; }
branch=${1:-$(git symbolic-ref --short HEAD)}
if git show-ref --quiet --verify "refs/heads/$branch" && ! git merge-base --is-ancestor "$branch" "origin/$branch"; then
  echo "The branch $branch has commits of its own, which origin/$branch does not: move them elsewhere." >&2
  exit 1
fi

# The old processes must meet neither the new code nor the new tables. What waits in the queues waits on.
echo "Stopping ..."
systemctl stop fmpn-fer.target 'fmpn-fer-*.service' # for the target alone it would not wait
tables=old
back() {
  cat >&2 << LINES
Not finished. These lines lead back to the version before, and another upgrade prints others:

    cd $here
    systemctl stop fmpn-fer.target 'fmpn-fer-*.service'
    git checkout --quiet $before
    FER_ENV_FILE=$FER_ENV_FILE python3 install.py
    cp -r deploy/systemd/fmpn-fer* /etc/systemd/system/
    systemctl daemon-reload
LINES
  # Where the tables are as they were, restoring would only lose what came since the backup.
  [ $tables = old ] || echo "    runuser -u fmpn-fer -- deploy/restore.sh $backup" >&2
  echo "    systemctl start fmpn-fer.target" >&2
}
trap 'back' EXIT

echo "Installing ..."
if [ -n "${1:-}" ]; then
  git checkout --quiet "$1"
fi
if git symbolic-ref --quiet HEAD > /dev/null; then
  git merge --quiet --ff-only # a branch: to what was fetched of it
fi
python3 install.py
cp deploy/systemd/*.service deploy/systemd/*.timer deploy/systemd/*.target /etc/systemd/system/
cp -r deploy/systemd/fmpn-fer-.service.d /etc/systemd/system/
systemctl daemon-reload

echo "Starting ..."
tables=new
deploy/manage.sh migrate --verbosity 0
deploy/manage.sh check --deploy --fail-level WARNING
systemctl start fmpn-fer.target

setting() { sed -n "s/^$1=//p" "$FER_ENV_FILE" | tail -n 1; }
host=$(setting FER_HOST)
case $host in '' | 0.0.0.0) host=127.0.0.1 ;; ::) host='[::1]' ;; *:*) host="[$host]" ;; esac
port=$(setting PORT)
ready="http://$host:${port:-8000}/readyz"
for _ in $(seq 60); do
  if python3 -c 'import urllib.request; urllib.request.urlopen("'"$ready"'", timeout=5)' 2>/dev/null; then
    trap - EXIT
    echo "$(git describe --tags --always) is running."
    exit 0
  fi
  sleep 2
done
echo "The site does not answer: journalctl --unit 'fmpn-fer-*' --since -5min" >&2
exit 1
