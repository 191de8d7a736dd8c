use serde_json::json;

use super::*;

fn enabled() -> NamespaceFacts {
    NamespaceFacts {
        name: "shop".into(),
        labels: [(names::LABEL_INJECT.into(), "enabled".into())].into(),
        ..NamespaceFacts::default()
    }
}

#[test]
fn injecting_twice_is_injecting_once() {
    let pod = json!({"spec": {"containers": [{"name": "web", "image": "web"}]}});
    let Injection::Injected(injected) = inject(&pod, &enabled(), &Settings::default()).unwrap()
    else {
        panic!("it is skipped");
    };
    assert_eq!(
        inject(&injected, &enabled(), &Settings::default()),
        Ok(Injection::Skipped(Reason::AlreadyInjected))
    );
    assert_eq!(uninject(&injected), pod);
}
