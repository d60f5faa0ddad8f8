# Create the work pool of compose.yaml, the deployments of prefect.yaml and the automation that ends
# dead runs. The script may be run repeatedly.
set -eu
prefect work-pool create local --type process --overwrite
prefect work-pool set-concurrency-limit local 1
prefect --no-prompt deploy --all
# Create the automation only once: Prefect would accept a second one of the same name.
prefect automation inspect dead-runs > /dev/null 2>&1 \
    || prefect --no-prompt automation create --from-file automations.yaml
