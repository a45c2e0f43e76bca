#!/usr/bin/env bash
# Hold the Dockerfile, compose.yaml and deploy/ against the tools that read them. Without a tool its
# check is skipped, and says so; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv-tools/bin:$PWD/.cache/helm/helm:$PWD/.cache/prometheus/usr/bin:$PATH
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
skipped=0

have() {
    command -v "$1" > /dev/null && return
    echo "$2: skipped, for $1 is not installed"
    skipped=1
    return 1
}

if have hadolint Dockerfile; then
    hadolint Dockerfile
    echo "Dockerfile: ok"
fi
if have check-jsonschema compose.yaml; then
    check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
    echo "compose.yaml: ok"
fi
if have helm deploy/helm && have kubernetes-validate deploy/helm; then
    helm lint --quiet --strict deploy/helm
    helm template test deploy/helm > "$work/plain.yaml"
    helm template test deploy/helm --set gpus=0,key.value=a:b,hub.existingSecret=hub \
        --set settings.PUBLIC_URL=https://videos.example.com,image.pullSecrets[0]=registry \
        --set data.existingClaim=data,nodeSelector.disk=ssd > "$work/full.yaml"
    tables=database.existingSecret=database,files.bucket=s3://videos/files,files.existingSecret=store
    shared=$tables,key.existingSecret=key
    helm template test deploy/helm --set replicas=2,$shared > "$work/shared.yaml"
    helm template test deploy/helm --set replicas=2,ray.enabled=true,ray.workers=2,$shared \
        --set weights.accessMode=ReadWriteMany > "$work/ray.yaml"
    helm template test deploy/helm --set replicas=2,ray.enabled=true,ray.workers=2,$shared \
        --set ray.maxWorkers=8,ray.slotsOfWorker=2,ray.gpusOfWorker=4 \
        --set weights.accessMode=ReadWriteMany > "$work/scaled.yaml"
    # The kinds of KubeRay, and of Prometheus' operator, are none of Kubernetes' own: of the former
    # the pods are checked.
    cat "$work"/{ray,scaled}.yaml > "$work/both.yaml"
    python3 - "$work/both.yaml" > "$work/ray-pods.yaml" << 'END'
import sys, yaml
for found in yaml.safe_load_all(open(sys.argv[1])):
    groups = [found]
    if found["kind"] == "RayCluster":
        spec = found["spec"]
        groups = [each["template"] for each in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
        for number, pod in enumerate(groups):
            pod |= {"apiVersion": "v1", "kind": "Pod"}
            pod["metadata"]["name"] = f"pod-{number}"
    print(yaml.safe_dump_all(groups, explicit_start=True))
END
    # Of servers that share a queue each accepts jobs for all, as long as it lives.
    python3 - "$work"/{plain,shared,scaled}.yaml << 'END'
import sys, yaml
for file, path in zip(sys.argv[1:], ("/health/ready", "/health/live", "/health/live"), strict=True):
    (found,) = (each for each in yaml.safe_load_all(open(file)) if each["kind"] == "Deployment")
    (server,) = found["spec"]["template"]["spec"]["containers"]
    assert server["readinessProbe"]["httpGet"]["path"] == path, (file, server)
END
    # What KubeRay's autoscaler, which is Ray's, takes a worker to be.
    .venv/bin/python - "$work/scaled.yaml" << 'END'
import sys, yaml
from ray.autoscaler._private.kuberay import autoscaling_config
for found in yaml.safe_load_all(open(sys.argv[1])):
    if found["kind"] == "RayCluster":
        found["metadata"]["namespace"] = "test"
        read = autoscaling_config._derive_autoscaling_config_from_ray_cr(found)
        worker = read["available_node_types"]["gpu"]
        assert (worker["min_workers"], worker["max_workers"]) == (2, 8), worker
        assert (worker["resources"]["cosmos_slot"], worker["resources"]["GPU"]) == (2, 4), worker
END
    kubernetes-validate --strict --quiet "$work"/{plain,full,shared,ray-pods}.yaml
    helm template test deploy/helm --set serviceMonitor.enabled=true,serviceMonitor.existingSecret=key \
        > /dev/null
    if helm template test deploy/helm --set replicas=2 > /dev/null 2>&1; then
        echo "deploy/helm: two servers without a database"; exit 1
    fi
    if helm template test deploy/helm --set $tables > /dev/null 2>&1; then
        echo "deploy/helm: a key that goes with its pod"; exit 1
    fi
    notes() { helm install test deploy/helm --dry-run=client --set "$1" | sed -n '/^NOTES:/,$p'; }
    grep -q "cat /data/key" <<< "$(notes replicas=1)"
    if grep "fetches the checkpoint\|/data/key" <<< "$(notes $shared)"; then exit 1; fi
    echo "deploy/helm: ok"
fi
if have promtool deploy/prometheus; then
    promtool check rules deploy/prometheus/rules.yml > /dev/null
    promtool test rules deploy/prometheus/rules_test.yml > /dev/null
    echo "deploy/prometheus: ok"
fi
if have systemd-analyze deploy/cosmos-serve.service; then
    # The program of the unit has to be there.
    sed "s#/opt/cosmos-serve/#$PWD/.venv/#" deploy/cosmos-serve.service > "$work/cosmos-serve.service"
    # A name that it does not know is said, and no failure.
    said=$(systemd-analyze verify --man=no "$work/cosmos-serve.service" 2>&1) || { echo "$said"; exit 1; }
    if grep cosmos-serve.service <<< "$said"; then exit 1; fi
    echo "deploy/cosmos-serve.service: ok"
fi
[ "$skipped" = 0 ] || [ "${CI:-}" != true ]
