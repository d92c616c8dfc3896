#!/bin/sh
# Puts a backup in the place of what is there: runuser -u fmpn-fer -- deploy/restore.sh FILE
#
# Stop the site first (systemctl stop fmpn-fer.target 'fmpn-fer-*.service'). Photos, runs and checkpoints that
# lie there are moved aside, not deleted; the database's tables are replaced.
set -eu
umask 077
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/deploy/settings.sh"

backup=$(realpath "${1:?"Say what: deploy/restore.sh FILE"}")

# root's files would be closed to the site, and PostgreSQL knows the system's user, not root, by its socket.
owner=$(stat --format=%U "$var" 2> /dev/null || echo fmpn-fer)
if [ "$(id -u)" = 0 ] && [ "$owner" != root ]; then
  echo "Run it as the site's user: runuser -u $owner -- deploy/restore.sh $backup" >&2
  exit 1
fi

mkdir -p "$var"
work=$(mktemp -d "$var/.restore-XXXXXX")
# A shell that is told to end goes on with its next line unless it is told to exit: it would move the photos
# aside and have none to put in their place.
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tar --extract --gzip --file="$backup" --directory="$work"
mkdir "$work/files"
tar --extract --file="$work/files.tar" --directory="$work/files"

case $database in
  "" | sqlite*)
    file=${database#sqlite://*/}
    file=${file:-$var/db.sqlite3}
    [ -f "$work/db.sqlite3" ] || { echo "$backup holds no SQLite database." >&2; exit 1; }
    rm -f "$file-wal" "$file-shm"
    mv "$work/db.sqlite3" "$file"
    ;;
  *)
    [ -f "$work/database.dump" ] || { echo "$backup holds no PostgreSQL database." >&2; exit 1; }
    # Every table goes, those too that the backup does not know of: they are of a newer version.
    pg_restore --no-owner --file="$work/database.sql" "$work/database.dump"
    psql --quiet --no-psqlrc --single-transaction --set=ON_ERROR_STOP=1 --output=/dev/null --command='
      DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = $q$public$q$ LOOP
          EXECUTE format($q$DROP TABLE public.%I CASCADE$q$, name);
        END LOOP;
      END $$' --file="$work/database.sql" "$database"
    ;;
esac

aside=$var/before-restore-$(date -u +%Y-%m-%dT%H%M%SZ)
for name in media runs checkpoints; do
  if [ -d "$var/$name" ]; then
    mkdir -p "$aside"
    mv "$var/$name" "$aside/$name"
  fi
  if [ -d "$work/files/$name" ]; then
    mv "$work/files/$name" "$var/$name"
  fi
done

# The backup may be of an older version. Then: does every analysis have its folder, does the model load?
cd "$here"
.venv/bin/python manage.py migrate --verbosity 0
.venv/bin/python manage.py export_model
.venv/bin/python manage.py shell --verbosity 0 --command '
from recognition.models import Analysis
kept = list(Analysis.objects.live())
without = [analysis.pk for analysis in kept if not analysis.folder.is_dir()]
print(f"{len(kept)} analyses are there, {len(without)} of them without their files.")
from training.models import Checkpoint
for missing in (one for one in Checkpoint.objects.all() if not one.path.is_file()):
    print(f"The checkpoint {missing} is without its file {missing.path}.")
'
echo "What people deleted since this backup was made is there again, and has to be deleted anew."
[ ! -d "$aside" ] || echo "What was there before lies in $aside: delete it once all is well. \
The nightly backup does when it is seven days old."
