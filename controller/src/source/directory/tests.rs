use serde_json::json;

use super::*;

fn namespace(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string()
}

/// As the engine writes: a temporary file, then a rename.
fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = path.with_file_name(".new");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: name.into(),
    }
}

fn files(root: &Path) -> Files {
    Files {
        root: root.to_owned(),
        known: HashMap::new(),
        bad: Family::default(),
    }
}

fn summary(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Applied(object) => format!("+{}", object.key().name),
        Event::Deleted(key) => format!("-{}", key.name),
        Event::Synced => "synced".into(),
    };
    events.iter().map(line).collect()
}

#[test]
fn files_are_objects() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut files = files(root);
    assert!(files.rescan().is_empty());
    write(root, "namespaces/shop.json", &namespace("shop"));
    write(root, "namespaces/.hidden.json", &namespace("hidden"));
    write(root, "tokens/abc.json", "{}");
    assert_eq!(summary(&files.rescan()), ["+shop"]);
    assert!(files.rescan().is_empty(), "unchanged");
    fs::remove_file(root.join("namespaces/shop.json")).unwrap();
    assert_eq!(files.rescan(), [Event::Deleted(key("shop"))]);
}

#[test]
fn a_bad_file_keeps_the_last_good_object() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut files = files(root);
    let bad = |files: &Files| {
        let mut registry = Registry::default();
        registry.register("bad", "", files.bad.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains("shop.json")
    };
    write(root, "namespaces/shop.json", &namespace("shop"));
    files.rescan();
    for text in ["{", "[]", &namespace("other")] {
        write(root, "namespaces/shop.json", text);
        assert!(files.rescan().is_empty(), "{text}");
        assert!(bad(&files));
    }
    write(root, "namespaces/shop.json", &namespace("shop"));
    assert_eq!(summary(&files.rescan()), ["+shop"]);
    assert!(!bad(&files));
    write(root, "namespaces/shop.json", "{");
    files.rescan();
    fs::remove_file(root.join("namespaces/shop.json")).unwrap();
    assert_eq!(
        files.rescan(),
        [Event::Deleted(key("shop"))],
        "the good object was still in use"
    );
}

#[tokio::test]
async fn changes_are_seen_as_they_happen() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "namespaces/first.json", &namespace("first"));
    let source = Directory::new(root.to_owned(), &mut Registry::default());
    let mut events = source.watch().unwrap();
    let mut next = async || summary(&[events.recv().await.unwrap()]).remove(0);
    assert_eq!(next().await, "+first");
    assert_eq!(next().await, "synced");
    write(root, "namespaces/second.json", &namespace("second"));
    assert_eq!(next().await, "+second");
    fs::remove_file(root.join("namespaces/first.json")).unwrap();
    assert_eq!(next().await, "-first");
    // A subfolder that did not exist when watching began.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"}});
    write(root, "services/shop.web.json", &service.to_string());
    assert_eq!(next().await, "+web");
}

#[test]
fn looking_at_the_folder_is_not_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "namespaces/first.json", &namespace("first"));
    let (changed, changes) = std_mpsc::channel();
    let _watcher = watcher(root, changed).unwrap();
    let mut files = Files {
        root: root.to_owned(),
        known: HashMap::new(),
        bad: Family::default(),
    };
    assert_eq!(files.rescan().len(), 1);
    write(root, "namespaces/second.json", &namespace("second"));
    let first = changes.recv().unwrap().unwrap();
    assert!(first.kind.is_create(), "{first:?}");
}

#[tokio::test]
async fn tokens_are_found_by_their_digest() {
    let folder = tempfile::tempdir().unwrap();
    // printf %s secret | sha256sum
    let file = "tokens/2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b.json";
    write(
        folder.path(),
        file,
        r#"{"namespace": "shop", "serviceAccount": "web", "pod": "web-1"}"#,
    );
    let source = Directory::new(folder.path().to_owned(), &mut Registry::default());
    let caller = source.review("secret").await.unwrap();
    assert_eq!(
        (
            caller.namespace.as_str(),
            caller.service_account.as_str(),
            caller.pod.as_str()
        ),
        ("shop", "web", "web-1")
    );
    for wrong in ["", "Secret", "../secret"] {
        assert!(matches!(
            source.review(wrong).await,
            Err(ReviewError::Invalid)
        ));
    }
    write(folder.path(), file, "{");
    assert!(matches!(
        source.review("secret").await,
        Err(ReviewError::Unavailable(_))
    ));
}

#[test]
fn a_missing_folder_is_an_error() {
    let source = Directory::new("/nonexistent/objects".into(), &mut Registry::default());
    assert!(
        source
            .watch()
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/objects")
    );
}
