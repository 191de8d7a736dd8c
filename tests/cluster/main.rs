//! End to end on a real cluster: everything that the README promises of Kubernetes, from `mesh check --pre` to
//! `mesh uninstall`, on the cluster that `KUBECONFIG` names.
//!
//! One story, because a cluster has one mesh. It relies on what every cluster has (kubelet, service addresses, DNS) and
//! on three images, those of `install/image.sh`, at `MESH_TEST_REGISTRY` (`localhost/mesh` without it). It runs only where no mesh is
//! installed, and leaves nothing behind.

mod away;
mod install;
mod kubelet;
mod rotation;
mod stage;
mod traffic;
mod upgrade;
mod views;
mod workload;

use std::time::Instant;

use stage::Stage;

/// A part of the story.
type Chapter = (&'static str, fn(&Stage));

#[test]
fn from_the_first_check_to_uninstall() {
    let Some(stage) = Stage::new("from_the_first_check_to_uninstall") else {
        return;
    };
    let chapters: [Chapter; 13] = [
        ("install and check", install::install),
        ("opt a namespace in", install::opt_in),
        ("every protocol through the mesh", traffic::protocols),
        ("who talks to whom", traffic::identities),
        ("what the command line shows", views::all),
        ("probes of every kind", kubelet::probes),
        ("jobs end", kubelet::jobs),
        ("proxies outlive their apps", kubelet::leaving),
        ("inject and uninject", install::inject_and_uninject),
        ("the controller is away", away::all),
        ("new roots under load", rotation::under_load),
        ("upgrade to three replicas under load", upgrade::to_three),
        ("uninstall", install::uninstall),
    ];
    for (name, chapter) in chapters {
        let started = Instant::now();
        println!("=== {name}");
        chapter(&stage);
        mesh_tests::figure!("{:.1} s", started.elapsed().as_secs_f64());
    }
}
