# The Prefect server inside its container. It listens on every interface of the container, because
# the worker is another one; what the host sees of it is up to `ports` in compose.yaml.
set -eu
: "${POSTGRES_PASSWORD:?set it in .env}"
PREFECT_SERVER_DATABASE_CONNECTION_URL="postgresql+asyncpg://prefect:$POSTGRES_PASSWORD@database:5432/prefect"
export PREFECT_SERVER_DATABASE_CONNECTION_URL
exec prefect server start --host 0.0.0.0 --port 4200
