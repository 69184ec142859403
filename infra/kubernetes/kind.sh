#!/usr/bin/env bash
# Everything on kind, on one machine without a cloud: the operator, Qdrant, an S3 store with the sample images, the index job,
# the service. Needs docker (8 CPUs, 28 GB), kind, kubectl, helm and python3.
#
#   infra/kubernetes/kind.sh                      # again: applies what has changed
#   kind delete cluster --name viewfinder         # removes everything
set -euo pipefail
cd "$(dirname "$0")"

image=viewfinder:0.2.0-cpu
docker build --file ../Dockerfile --tag "$image" ../..
kind get clusters | grep -qx viewfinder || kind create cluster --name viewfinder --config - <<END
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
    extraMounts: [{hostPath: "$(cd ../../demo/corpus && pwd)", containerPath: /photos, readOnly: true}]
END
kind load docker-image "$image" --name viewfinder

kubectl() { command kubectl --context kind-viewfinder "$@"; }
helm() { command helm --kube-context kind-viewfinder upgrade --install "$@"; }

helm kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ --version 1.7.0 \
  --namespace kuberay-system --create-namespace --wait
kubectl apply --filename base/namespace.yaml
kubectl create namespace dev-stores --dry-run=client --output yaml | kubectl apply --filename -

# Random, made once; none is written to a file. `api-keys` has the digest that the service reads, and the key for you.
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
made() { kubectl --namespace viewfinder get secret "$1" >/dev/null 2>&1; }
secret() { kubectl --namespace "${namespace:-viewfinder}" create secret generic "$@"; }
made ray-token || secret ray-token --from-literal=auth_token="$(random)"
if ! made qdrant-tokens; then
  kubectl --namespace viewfinder delete secret qdrant-admin --ignore-not-found
  admin=$(random)
  token() { printf %s "$admin" | python3 qdrant/qdrant_token.py "$@"; }
  secret qdrant-admin --from-literal=api-key="$admin"
  secret qdrant-tokens --from-literal=service="$(token --access r --days 365)" --from-literal=job="$(token --access m --days 365)"
fi
if ! made api-keys; then
  key=$(random)
  secret api-keys --from-literal=key="$key" --from-literal=digests="$(printf %s "$key" | sha256sum | cut -d ' ' -f 1)"
fi
if ! made s3; then
  id=$(random) password=$(random)
  for namespace in dev-stores viewfinder; do
    kubectl --namespace "$namespace" delete secret s3 --ignore-not-found
    secret s3 --from-literal=access-key-id="$id" --from-literal=secret-access-key="$password"
  done
fi

helm qdrant qdrant --repo https://qdrant.github.io/qdrant-helm --version 1.20.0 --namespace viewfinder \
  --values qdrant/values.yaml --values qdrant/values-dev.yaml --wait
kubectl apply --kustomize overlays/kind
kubectl --namespace viewfinder wait rayjob/index --for=jsonpath='{.status.jobStatus}'=SUCCEEDED --timeout=30m

cat <<'END'
The sample images are indexed. To search:
  kubectl --context kind-viewfinder -n viewfinder port-forward svc/viewfinder-serve-svc 8000 &
  KEY=$(kubectl --context kind-viewfinder -n viewfinder get secret api-keys -o jsonpath='{.data.key}' | base64 -d)
  curl -H "x-api-key: $KEY" 'http://127.0.0.1:8000/v1/search?q=a+red+car'
END
