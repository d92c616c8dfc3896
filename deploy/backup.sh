#!/bin/sh
# Database, photos, runs and imported checkpoints in one file: deploy/backup.sh FOLDER [DAYS]
#
# Written as FOLDER/fmpn-fer-DATE.tar.gz, readable by its owner alone; older ones than DAYS (7) are deleted,
# and what a restore moved aside so long ago, so that nothing outlives here for long what was deleted on the
# site. The site goes on meanwhile.
set -eu
umask 077
. "$(dirname "$0")/settings.sh"

folder=${1:?"Say where to: deploy/backup.sh FOLDER [DAYS]"}
days=${2:-7}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
name=fmpn-fer-$(date -u +%Y-%m-%dT%H%M%SZ).tar.gz
work=$(mktemp -d "$folder/.unfinished-XXXXXX")
# A shell that is told to end goes on with its next line unless it is told to exit.
trap 'rm -rf "$work" "$folder/.$name"' EXIT
trap 'exit 1' HUP INT TERM

# The database first: a photo that comes or goes later has a file too many or too few, and never a row.
case $database in
  "" | sqlite*)
    file=${database#sqlite://*/}
    python3 - "${file:-$var/db.sqlite3}" "$work/db.sqlite3" <<'PYTHON'
import sqlite3, sys
source, copy = (sqlite3.connect(f"file:{path}?mode={mode}", uri=True) for path, mode in zip(sys.argv[1:], ("ro", "rwc")))
with copy:
    source.backup(copy)
PYTHON
    ;;
  *) pg_dump --format=custom --no-owner --file="$work/database.dump" "$database" ;;
esac

# Uploads as they came, and what a worker has of its copy, are gone once they are read: no backup keeps them.
# "1" is a video on its way in (recognition/batches.py and videos.py have the names).
# A file that a person deletes while it is read is no error: tar's 1 says that, 2 and more are errors.
cd "$var"
set -- media runs checkpoints
for part in "$@"; do
  shift
  [ -d "$part" ] && set -- "$@" "$part"
done
tar --create --file="$work/files.tar" --warning=no-file-changed --ignore-failed-read --anchored \
  --exclude='media/analyses/*/incoming' --exclude='media/analyses/*/upload.*' \
  --exclude='media/analyses/*/copy-*.part' --exclude='media/analyses/*/1' \
  "$@" --files-from=/dev/null || [ $? -eq 1 ]

tar --create --gzip --file="$folder/.$name" --directory="$work" .
mv "$folder/.$name" "$folder/$name"
# An hour less: the one of seven days ago may have been made a little later in the night than this one.
find "$folder" -maxdepth 1 -name 'fmpn-fer-*.tar.gz' ! -name "$name" -mmin "+$((days * 1440 - 60))" -delete
# What was killed, or lost its power, could not tidy up: faces lie in that as well.
find "$folder" -maxdepth 1 \( -name '.unfinished-*' -o -name '.fmpn-fer-*.tar.gz' \) -mmin +1440 -exec rm -rf {} +
find . -maxdepth 1 -name '.restore-*' -mmin +1440 -exec rm -rf {} +
# What a restore moved aside has its week, however long backups are kept elsewhere.
find . -maxdepth 1 -name 'before-restore-*' -mmin "+$((7 * 1440 - 60))" -exec rm -rf {} +
echo "$folder/$name"
