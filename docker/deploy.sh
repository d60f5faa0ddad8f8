# The work pool of compose.yaml, the deployments of prefect.yaml and the automation that ends dead
# runs; the same call may be repeated.
set -eu
prefect work-pool create local --type process --overwrite
prefect work-pool set-concurrency-limit local 1
prefect --no-prompt deploy --all
# Creating it again would make a second one of that name.
prefect automation inspect dead-runs > /dev/null 2>&1 \
    || prefect --no-prompt automation create --from-file automations.yaml
