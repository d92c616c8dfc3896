# What backup.sh and restore.sh take from the site's settings; they read this file, nobody runs it.
FER_ENV_FILE=${FER_ENV_FILE:-/etc/fmpn-fer/env}
export FER_ENV_FILE
setting() { sed -n "s/^$1=//p" "$FER_ENV_FILE" | tail -n 1; }

var=$(setting FER_VAR_DIR)
: "${var:?"FER_VAR_DIR is not set in $FER_ENV_FILE."}"
database=$(setting DATABASE_URL)

# The database's password goes to PostgreSQL's programs by the environment: with what a program was called
# stands in the list of processes, for everybody on the machine. (printf is the shell's own, and not in it.)
PGPASSWORD=$(printf %s "$database" |
  python3 -c 'import sys, urllib.parse as u; print(u.unquote(u.urlsplit(sys.stdin.read()).password or ""))')
export PGPASSWORD
database=$(printf %s "$database" | sed 's|^\([^/]*//[^/@:]*\):[^/@]*@|\1@|')
