module policies

go 1.24.0

require (
	github.com/cloudnativelabs/kube-router/v2 v2.5.0
	github.com/spf13/pflag v1.0.5
	k8s.io/klog/v2 v2.130.1
)
