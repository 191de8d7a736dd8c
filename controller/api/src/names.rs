//! Ports, headers, ALPN protocols, labels and annotations: every name that crosses a process border.

/// Where redirected connections from the pod's own apps arrive.
pub const OUTBOUND_PORT: u16 = 4140;
/// Where redirected connections to the pod arrive.
pub const INBOUND_PORT: u16 = 4143;
/// The proxy's `/live /ready /metrics /config`.
pub const ADMIN_PORT: u16 = 4191;
/// The controller's Identity, Discovery and Telemetry services (TLS).
pub const CONTROLLER_PORT: u16 = 8443;
/// The controller's `/live /ready /metrics`.
pub const CONTROLLER_ADMIN_PORT: u16 = 9995;
/// The controller's Observe service on Kubernetes, on loopback: reached through the API server's port-forward.
pub const OBSERVE_PORT: u16 = 9996;
/// The injector webhook (TLS).
pub const WEBHOOK_PORT: u16 = 9443;

/// The user id of the proxy's process on Kubernetes; its traffic is not redirected.
pub const PROXY_UID: u32 = 2102;
/// The socket mark that excludes the proxy's own traffic where all processes share one user id
/// (a user namespace with one mapped id).
pub const PROXY_MARK: u32 = 0x6d65_7368;

/// Inbound and outbound ports on which the server speaks first or the protocol is not HTTP:
/// SMTP, MySQL, Galera, PostgreSQL, Redis, Elasticsearch, memcached.
pub const DEFAULT_OPAQUE_PORTS: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];
/// Ports that are never redirected (Galera's group traffic).
pub const DEFAULT_SKIP_PORTS: [u16; 2] = [4567, 4568];

/// The default trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Audience of the service-account tokens that proxies show to the controller.
pub const TOKEN_AUDIENCE: &str = "identity.mesh.internal";
/// The namespace of the control plane.
pub const SYSTEM_NAMESPACE: &str = "mesh-system";
/// The controller's service account.
pub const CONTROLLER_SERVICE_ACCOUNT: &str = "mesh-controller";
/// The controller's Deployment, its Service for proxies, its Lease.
pub const CONTROLLER: &str = "mesh-controller";
/// The webhook's Service and MutatingWebhookConfiguration.
pub const WEBHOOK: &str = "mesh-webhook";
/// The Secret in the system namespace that holds the roots, under the key [`CA_KEY`].
pub const CA_SECRET: &str = "mesh-ca";
/// The key in [`CA_SECRET`].
pub const CA_KEY: &str = "ca.json";
/// The ConfigMap in every opted-in namespace from which a proxy's first trust bundle comes.
pub const TRUST_CONFIG_MAP: &str = "mesh-trust";
/// The key in [`TRUST_CONFIG_MAP`]: PEM certificates.
pub const TRUST_KEY: &str = "bundle.pem";
/// The ConfigMap in the system namespace that holds the injector's settings, under the key [`CONFIG_KEY`].
pub const CONFIG_MAP: &str = "mesh-config";
/// The key in [`CONFIG_MAP`].
pub const CONFIG_KEY: &str = "inject.json";
/// The proxy's container in a pod.
pub const PROXY_CONTAINER: &str = "mesh-proxy";
/// The init container that writes the redirection.
pub const INIT_CONTAINER: &str = "mesh-init";
/// The proxy's program in its image.
pub const PROXY_PROGRAM: &str = "/mesh-proxy";
/// On the proxy's admin port, followed by a port of its pod: 200 if something accepts TCP connections there.
/// A bare connection would only show that the proxy accepts it.
pub const TCP_PROBE_PATH: &str = "/probe/tcp/";
/// Where images come from unless `--registry` says otherwise: `install/image.sh` names its images so, and a
/// node that has imported them needs no registry.
pub const IMAGE_REGISTRY: &str = "localhost/mesh";

/// ALPN: HTTP/1.x requests follow.
pub const ALPN_HTTP1: &[u8] = b"mesh-http/1.1";
/// ALPN: HTTP/2 follows; each request's original version travels in [`HEADER_ORIGINAL_VERSION`].
pub const ALPN_HTTP2: &[u8] = b"mesh-h2";
/// ALPN: opaque bytes follow.
pub const ALPN_TCP: &[u8] = b"mesh-tcp";

/// Response header: why the mesh itself answered, in words.
pub const HEADER_ERROR: &str = "mesh-error";
/// Request header set by the inbound proxy: the SPIFFE id of the verified caller.
pub const HEADER_CLIENT_ID: &str = "mesh-client-id";
/// Request header between proxies: "HTTP/1.0" or "HTTP/1.1" where HTTP/2 carries such a request.
pub const HEADER_ORIGINAL_VERSION: &str = "mesh-original-version";
/// Response header between proxies: the request provably never reached the app, so that any method may be
/// tried again.
pub const HEADER_NOT_DELIVERED: &str = "mesh-not-delivered";
/// Headers with this prefix are stripped where they come from outside of the mesh.
pub const HEADER_PREFIX: &str = "mesh-";

/// Label on all objects of the control plane: [`PART_OF`].
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
/// The value of [`LABEL_PART_OF`].
pub const PART_OF: &str = "mesh";
/// Label on all objects of the control plane: "controller", "webhook".
pub const LABEL_COMPONENT: &str = "mesh.internal/component";
/// Annotation that the injector sets on a pod beside which it put a proxy: "true".
pub const ANNOTATION_PROXY: &str = "mesh.internal/proxy";

/// Label on a namespace or pod template: "enabled" or "disabled".
pub const LABEL_INJECT: &str = "mesh.internal/inject";
/// Annotation on a Service, namespace or pod template: ports that are opaque, "25,3306,9000-9010".
pub const ANNOTATION_OPAQUE_PORTS: &str = "mesh.internal/opaque-ports";
/// Annotation on a pod template: inbound ports that are not redirected, instead of [`DEFAULT_SKIP_PORTS`].
pub const ANNOTATION_SKIP_INBOUND_PORTS: &str = "mesh.internal/skip-inbound-ports";
/// Annotation on a pod template: outbound ports that are not redirected, instead of [`DEFAULT_SKIP_PORTS`].
pub const ANNOTATION_SKIP_OUTBOUND_PORTS: &str = "mesh.internal/skip-outbound-ports";
/// Annotation: the proxy's log level.
pub const ANNOTATION_LOG_LEVEL: &str = "mesh.internal/log-level";
/// Annotation: whether the proxy logs each request ("true", "false").
pub const ANNOTATION_ACCESS_LOG: &str = "mesh.internal/access-log";
/// Annotation: whether the proxy is a native sidecar ("true", "false").
pub const ANNOTATION_NATIVE_SIDECAR: &str = "mesh.internal/native-sidecar";
/// Annotation: the proxy's CPU request, a Kubernetes quantity.
pub const ANNOTATION_CPU_REQUEST: &str = "mesh.internal/cpu-request";
/// Annotation: the proxy's CPU limit.
pub const ANNOTATION_CPU_LIMIT: &str = "mesh.internal/cpu-limit";
/// Annotation: the proxy's memory request.
pub const ANNOTATION_MEMORY_REQUEST: &str = "mesh.internal/memory-request";
/// Annotation: the proxy's memory limit.
pub const ANNOTATION_MEMORY_LIMIT: &str = "mesh.internal/memory-limit";
