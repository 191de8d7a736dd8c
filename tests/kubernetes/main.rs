//! Tests against a Kubernetes API server: the in-memory one, or a real one when `KUBEBUILDER_ASSETS` is set.
//!
//! What passes only on the in-memory server is worth nothing: a test here relies on no answer that a
//! real `kube-apiserver` without controller-manager, kubelet and scheduler would not give.

mod apiserver;
mod check;
mod control_plane;
mod identity;
mod inject;
mod install;
mod leader;
mod observers;
mod proxy;
mod replica;
mod source;
mod views;
mod webhook;
