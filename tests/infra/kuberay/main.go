// Prints what KubeRay's operator makes of manifests: its validation errors, and the Services and Pods that it would create.
// Kinds of Prometheus' operator are decoded by its types.
//
// Reads YAML documents from standard input, writes one JSON object to standard output. Nothing is applied.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	rayv1 "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"
	"github.com/ray-project/kuberay/ray-operator/controllers/ray/common"
	"github.com/ray-project/kuberay/ray-operator/controllers/ray/utils"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

type made struct {
	Errors   []string          `json:"errors"`
	Services []*corev1.Service `json:"services"`
	Pods     []corev1.Pod      `json:"pods"`
	Submits  map[string]string `json:"submits"`
	// Kinds of Prometheus' operator, decoded without unknown fields.
	Monitors []*monitoringv1.PodMonitor     `json:"monitors"`
	Rules    []*monitoringv1.PrometheusRule `json:"rules"`
}

func main() {
	out := made{Errors: []string{}, Submits: map[string]string{}}
	documents := yaml.NewYAMLOrJSONDecoder(os.Stdin, 1<<16)
	for {
		var document json.RawMessage
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			panic(err)
		}
		var kind metav1.TypeMeta
		if err := json.Unmarshal(document, &kind); err != nil {
			panic(err)
		}
		switch kind.Kind {
		case "RayService":
			out.rayService(read[rayv1.RayService](document))
		case "RayCluster":
			cluster := read[rayv1.RayCluster](document)
			out.check("RayCluster", cluster.Name, utils.ValidateRayClusterMetadata(cluster.ObjectMeta))
			out.rayCluster(*cluster, utils.RayClusterCRD)
			head := cluster.Spec.HeadGroupSpec.Template
			service, err := common.BuildServiceForHeadPod(context.Background(), *cluster, head.Labels, nil)
			out.service(service, err, "RayCluster", cluster.Name)
		case "RayJob":
			out.rayJob(read[rayv1.RayJob](document))
		case "PodMonitor":
			out.Monitors = append(out.Monitors, strict[monitoringv1.PodMonitor](document))
		case "PrometheusRule":
			out.Rules = append(out.Rules, strict[monitoringv1.PrometheusRule](document))
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}

func read[T any](document json.RawMessage) *T {
	var object T
	if err := json.Unmarshal(document, &object); err != nil {
		panic(err)
	}
	return &object
}

// A field that the kind does not have is an error.
func strict[T any](document json.RawMessage) *T {
	var object T
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&object); err != nil {
		panic(err)
	}
	return &object
}

func (m *made) check(kind, name string, err error) {
	if err != nil {
		m.Errors = append(m.Errors, fmt.Sprintf("%s %s: %v", kind, name, err))
	}
}

func (m *made) service(service *corev1.Service, err error, kind, name string) {
	m.check(kind, name, err)
	if err == nil {
		m.Services = append(m.Services, service)
	}
}

func (m *made) rayService(object *rayv1.RayService) {
	m.check("RayService", object.Name, utils.ValidateRayServiceMetadata(object.ObjectMeta))
	m.check("RayService", object.Name, utils.ValidateRayServiceSpec(object))
	// As the operator names it and labels it (constructRayClusterForRayService).
	cluster := rayv1.RayCluster{
		ObjectMeta: metav1.ObjectMeta{
			Name:        object.Name + "-x7k2p",
			Namespace:   object.Namespace,
			Annotations: object.Annotations,
			Labels: map[string]string{
				utils.RayOriginatedFromCRNameLabelKey: object.Name,
				utils.RayOriginatedFromCRDLabelKey:    utils.RayOriginatedFromCRDLabelValue(utils.RayServiceCRD),
			},
		},
		Spec: object.Spec.RayClusterSpec,
	}
	m.rayCluster(cluster, utils.RayServiceCRD)
	head, err := common.BuildHeadServiceForRayService(context.Background(), *object, cluster)
	m.service(head, err, "RayService", object.Name)
	serve, err := common.BuildServeServiceForRayService(context.Background(), *object, cluster)
	m.service(serve, err, "RayService", object.Name)
}

func (m *made) rayJob(object *rayv1.RayJob) {
	m.check("RayJob", object.Name, utils.ValidateRayJobMetadata(object.ObjectMeta))
	m.check("RayJob", object.Name, utils.ValidateRayJobSpec(object))
	if object.Spec.RayClusterSpec == nil {
		return
	}
	cluster := rayv1.RayCluster{
		ObjectMeta: metav1.ObjectMeta{Name: object.Name + "-x7k2p", Namespace: object.Namespace, Annotations: object.Annotations},
		Spec:       *object.Spec.RayClusterSpec,
	}
	m.rayCluster(cluster, utils.RayJobCRD)
	head, err := common.BuildServiceForHeadPod(context.Background(), cluster, cluster.Spec.HeadGroupSpec.Template.Labels, nil)
	m.service(head, err, "RayJob", object.Name)
	object.Status.DashboardURL = "dashboard:8265"
	object.Status.JobId = "job"
	submit, err := common.BuildJobSubmitCommand(object, object.Spec.SubmissionMode)
	m.check("RayJob", object.Name, err)
	m.Submits[object.Name] = fmt.Sprint(submit)
}

func (m *made) rayCluster(cluster rayv1.RayCluster, origin utils.CRDType) {
	ctx := context.Background()
	m.check("RayCluster", cluster.Name, utils.ValidateRayClusterSpec(&cluster.Spec, cluster.Annotations))
	address := utils.GenerateFQDNServiceName(ctx, cluster, cluster.Namespace)
	port := common.GetHeadPort(cluster.Spec.HeadGroupSpec.RayStartParams)
	autoscales := utils.IsAutoscalingEnabled(&cluster.Spec)
	head := common.DefaultHeadPodTemplate(ctx, cluster, cluster.Spec.HeadGroupSpec, cluster.Name+"-head", port)
	m.pod(common.BuildPod(ctx, head, rayv1.HeadNode, cluster.Spec.HeadGroupSpec.RayStartParams, port, autoscales, origin, address, nil), cluster)
	for _, group := range cluster.Spec.WorkerGroupSpecs {
		name := cluster.Name + "-" + group.GroupName
		worker := common.DefaultWorkerPodTemplate(ctx, cluster, group, name, address, port, "", 0, 0)
		m.pod(common.BuildPod(ctx, worker, rayv1.WorkerNode, group.RayStartParams, port, autoscales, origin, address, nil), cluster)
	}
}

func (m *made) pod(pod corev1.Pod, cluster rayv1.RayCluster) {
	pod.Namespace = cluster.Namespace
	m.Pods = append(m.Pods, pod)
}
