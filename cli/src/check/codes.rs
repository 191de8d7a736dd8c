//! The checks: their codes, which never change, and what `mesh check --explain` says of them.

/// One check.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable: scripts and runbooks name it.
    pub code: &'static str,
    /// The section in which it stands.
    pub section: Section,
    /// What is well when it is.
    pub title: &'static str,
    /// What it looks at, why that matters, and what to do when it is not well.
    pub explanation: &'static str,
}

/// Checks that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Section {
    Kubernetes,
    Machine,
    Controller,
    Certificates,
    Webhook,
    DataPlane,
}

impl Section {
    /// As it is printed.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Machine => "this machine",
            Self::Controller => "controller",
            Self::Certificates => "certificates",
            Self::Webhook => "injector webhook",
            Self::DataPlane => "data plane",
        }
    }
}

/// The check with this code, in any case.
pub fn find(code: &str) -> Option<&'static Code> {
    ALL.iter()
        .copied()
        .find(|one| one.code.eq_ignore_ascii_case(code))
}

macro_rules! codes {
    ($($name:ident = $section:ident, $title:literal, $explanation:literal;)*) => {
        $(pub(super) const $name: &Code = &Code {
            code: stringify!($name),
            section: Section::$section,
            title: $title,
            explanation: $explanation,
        };)*
        /// All checks, in the order of their codes.
        pub const ALL: &[&Code] = &[$($name),*];
    };
}

codes! {
K01 = Kubernetes, "the API server answers",
"The API server of the kubeconfig's context is asked for its version. Everything that mesh does on a cluster goes through
it: if it does not answer, check the context (kubectl config current-context), the network and a VPN, and whether the
cluster runs. Credentials that have expired fail here too: log in again.";
K02 = Kubernetes, "the version of Kubernetes is supported",
"Kubernetes 1.25 is the oldest version whose APIs mesh uses (Pod Security admission, policy/v1). Upgrade the cluster.";
K03 = Kubernetes, "native sidecars are supported",
"From Kubernetes 1.29 on, the proxy is a native sidecar: it is ready before the app starts, it ends after the app, and it lets
Jobs finish. On older versions the injector adds a classic container, whose hooks see to the first two for the pod's other
containers; its init containers run before the mesh is there, and pods that are to complete, such as a Job's, get no proxy.
Upgrade the cluster, or live with it.";
K04 = Kubernetes, "you have the rights that are needed",
"With --pre: to create everything that mesh install renders, of which the webhook's configuration and the cluster roles need an
administrator of the cluster. Without --pre: to list the pods of mesh-system and to forward to their ports (get and, since
Kubernetes 1.35, create pods/portforward), which is how stat, top, edges and tap read the controller. Without the right to list
pods and namespaces of the whole cluster, the data plane is checked only where -n says.";
K05 = Kubernetes, "the clocks agree",
"The API server's clock is compared with this machine's. Certificates live for 24 hours and are valid from a minute before
they are issued: nodes whose clocks are far off refuse each other's. Synchronise the clocks (NTP), of this machine and of the nodes.";
K06 = Kubernetes, "Gateway API",
"HTTPRoute, GRPCRoute, TLSRoute and TCPRoute with a Service as parent are how traffic rules are written. mesh needs none of them,
and never installs their definitions: they belong to the cluster. To use traffic rules, install the Gateway API's standard channel.";
M01 = Machine, "the controller answers",
"The controller of the mesh on this machine is asked through its socket. Its log: mesh local logs controller.";
M02 = Machine, "all pods are ready",
"Every pod of the mesh on this machine should be ready. What a pod prints: mesh local logs POD. How it stands: mesh local ps.";
C01 = Controller, "mesh is installed",
"The Deployment mesh-controller in the namespace mesh-system is the control plane. Install it: mesh install | kubectl apply -f -";
C02 = Controller, "all replicas are ready",
"Every replica should be ready. As long as one is, certificates are issued and changes reach the proxies; with none, proxies
serve on with what they know, but new pods wait. kubectl -n mesh-system describe pods says why one does not start.";
C03 = Controller, "replicas answer",
"Each replica is asked through a port-forward to its port 9996, which listens on the pod's loopback interface only. If that fails
while the pod is ready, the API server can't reach the kubelet of its node, or a proxy on the way drops WebSockets.";
C04 = Controller, "versions agree",
"The versions of this command and of the controller should be the same, except while you upgrade. Upgrade the older of both:
mesh upgrade | kubectl apply -f - for the cluster.";
C05 = Controller, "a leader is elected",
"One replica holds the Lease mesh-controller. It alone rotates the roots, keeps the trust bundle in every namespace and the
webhook's caBundle current. Without a leader these grow old, while everything else goes on. See the controller's log for why
no replica gets the Lease: mostly its rights to leases.coordination.k8s.io, or the API server's load.";
C06 = Controller, "replicas keep running",
"A replica that was started again crashed or was killed. kubectl -n mesh-system logs --previous POD says why; an exit code of 137
means that it needed more memory than its limit (mesh install --set).";
A01 = Certificates, "root certificates are valid",
"The roots that all identities of the mesh hang on. The controller makes a new one long before the old one ends, and both are
trusted for a while, so that nothing has to be restarted. If one is about to end, the leader does not do its work: see C05.";
A02 = Certificates, "opted-in namespaces have the trust bundle",
"A proxy that starts knows whom to trust from the ConfigMap mesh-trust in its namespace, which the controller keeps. Without it a pod
does not start; with an old one a new proxy can't talk to the controller after a rotation. See C05, and the controller's log.";
W01 = Webhook, "the webhook is registered",
"The MutatingWebhookConfiguration mesh-webhook tells the API server to send new pods to the injector. Without it no pod gets
a proxy. Restore it: mesh install | kubectl apply -f -";
W02 = Webhook, "the API server can trust it",
"caBundle in the configuration is what the API server verifies the injector's certificate against. The leader writes it. Tools that
apply manifests again and again must leave it alone: the installed manifest does not contain it.";
W03 = Webhook, "every replica serves it",
"Each replica is connected to on port 9443 as the API server would do it, and has to show a certificate for
mesh-webhook.mesh-system.svc that caBundle vouches for. If it does not, restart the replica, and report a bug.";
W04 = Webhook, "new pods are injected",
"A pod that asks for a proxy is created with dryRun, so that nothing is stored, and has to come back with one. This takes the way
of real pods: from the API server through the Service to the injector. If only this fails, the API server can't reach the
pods' network: on some clusters a firewall has to let it reach port 9443 of the nodes. A namespace that enforces the Pod
Security level restricted or baseline rejects the init container, which needs NET_ADMIN: label such a namespace privileged.";
D01 = DataPlane, "opted-in pods have a proxy",
"A pod that was created before its namespace or its template was labelled, or while the injector was away, has no proxy: its
traffic is in clear and not seen. Replace it: kubectl -n NAMESPACE rollout restart deploy NAME. Pods in the host's network can't have one.";
D02 = DataPlane, "proxies have the version of the controller",
"A proxy keeps the version with which its pod was injected. Versions next to each other work together; replace the pods after an
upgrade when it suits: kubectl rollout restart.";
D03 = DataPlane, "certificates of proxies are valid",
"Leaf certificates live for 24 hours and are renewed after 70 % of that. One with less than a tenth left could not be renewed for
hours: the proxy can't reach the controller, or its token is refused. The proxy's log says which.";
D04 = DataPlane, "proxies are ready",
"A proxy is ready when it listens and has a certificate. See its log: kubectl logs POD -c mesh-proxy";
D05 = DataPlane, "proxies report to the controller",
"A proxy that has told nothing for ten seconds is missing in stat, top, edges and tap. It may have just started. If it
stays away, it can't reach mesh-controller.mesh-system.svc:8443: a NetworkPolicy, or the cluster's DNS.";
D06 = DataPlane, "no system namespace is opted in",
"What the cluster itself needs (kube-system, and the control plane in mesh-system) must not depend on the mesh: pods there are never
injected, whatever their labels. Remove the label: kubectl label ns NAME mesh.internal/inject-";
D07 = DataPlane, "opted-in pods can have a proxy",
"Some pods can't have one, whatever their labels: in the node's network redirection would catch the whole node's traffic; an app that
listens on 4140, 4143 or 4191 takes the proxy's ports; the sidecar of another mesh redirects already. Their traffic is in clear.
Change what the line names, or opt the pod out with the label mesh.internal/inject: disabled, so that nobody expects otherwise.";
D08 = DataPlane, "annotations can be read",
"mesh.internal/opaque-ports, skip-inbound-ports and skip-outbound-ports take ports and ranges, such as 25,3306,9000-9010. A pod with a
value that can't be read gets no proxy; on a Service it has no effect.";
D09 = DataPlane, "opaque ports are no HTTP",
"25 587 3306 4444 5432 6379 9300 and 11211 are opaque by default: secured and balanced by connection, without figures per
request. Where such a port of a Service says appProtocol: http, it is treated as it says; somebody should look whether that
is meant. As a hint, ports are named whose name is that of a protocol in which the server speaks first, but whose number is none
of these: their protocol is found out at each new destination. Listed in the annotation mesh.internal/opaque-ports, they need not be.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_said_once_and_explained() {
        for (index, code) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.code != code.code));
            assert!(code.explanation.len() > 80, "{}", code.code);
            assert_eq!(find(&code.code.to_lowercase()), Some(*code));
        }
    }
}
