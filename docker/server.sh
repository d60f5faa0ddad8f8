# Start the Prefect server inside its container. It listens on all interfaces of the container,
# because the worker runs in another container; `ports` in compose.yaml limits access from the host.
set -eu
: "${POSTGRES_PASSWORD:?set it in .env}"
PREFECT_SERVER_DATABASE_CONNECTION_URL="postgresql+asyncpg://prefect:$POSTGRES_PASSWORD@database:5432/prefect"
export PREFECT_SERVER_DATABASE_CONNECTION_URL
exec prefect server start --host 0.0.0.0 --port 4200
