#!/bin/sh
# manage.py as the site's own user, with the site's own settings: deploy/manage.sh createsuperuser
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
FER_ENV_FILE=${FER_ENV_FILE:-/etc/fmpn-fer/env}
FER_USER=${FER_USER:-fmpn-fer}
export FER_ENV_FILE
cd "$here"
if [ "$(id -un)" = "$FER_USER" ]; then
  exec .venv/bin/python manage.py "$@"
fi
exec runuser -u "$FER_USER" -- .venv/bin/python manage.py "$@"
