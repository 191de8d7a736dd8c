//! A container's variables, and `$(VAR)` in its command.

use std::collections::BTreeMap;

use crate::local::manifest::{Container, EnvValue, Manifests};

/// What `fieldRef` can ask for.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) ip: String,
    pub(super) ip6: String,
    pub(super) service_account: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// The variables of a container, in their order.
///
/// # Errors
/// A reference to what does not exist.
pub(super) fn environment(
    container: &Container,
    pod: &Identity,
    manifests: &Manifests,
) -> Result<Vec<(String, String)>, String> {
    let maps = |secret: bool| {
        if secret {
            &manifests.secrets
        } else {
            &manifests.config_maps
        }
    };
    let key = |name: &str| (pod.namespace.clone(), name.to_owned());
    let mut vars: Vec<(String, String)> = vec![("HOSTNAME".into(), pod.name.clone())];
    for (name, secret, prefix) in &container.env_from {
        let data = maps(*secret).get(&key(name));
        let data = data.ok_or_else(|| format!("envFrom names {name}, which does not exist"))?;
        for (name, value) in data {
            vars.push((
                format!("{prefix}{name}"),
                String::from_utf8_lossy(value).into(),
            ));
        }
    }
    for (name, value) in &container.env {
        let (map, item, optional, secret) = match value {
            EnvValue::Literal(text) => {
                let text = expand(text, &vars);
                vars.push((name.clone(), text));
                continue;
            }
            EnvValue::Field(path) => {
                let field = field(path, pod);
                let field =
                    field.ok_or_else(|| format!("variable {name}: unknown field {path}"))?;
                vars.push((name.clone(), field));
                continue;
            }
            EnvValue::ConfigMap(map, item, optional) => (map, item, optional, false),
            EnvValue::Secret(map, item, optional) => (map, item, optional, true),
        };
        match maps(secret).get(&key(map)).and_then(|data| data.get(item)) {
            Some(value) => vars.push((name.clone(), String::from_utf8_lossy(value).into())),
            None if *optional => {}
            None => return Err(format!("variable {name}: there is no key {item} in {map}")),
        }
    }
    Ok(vars)
}

/// Replaces `$(NAME)` of known variables; `$$` is one `$` (Kubernetes' API reference, Container.command).
pub(super) fn expand(text: &str, vars: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        let known = name.and_then(|(name, after)| {
            // The last definition wins.
            let (_, value) = vars.iter().rev().find(|(known, _)| known == name)?;
            Some((value, after))
        });
        match known {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out + rest
}

fn field(path: &str, pod: &Identity) -> Option<String> {
    let keyed = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
    };
    if let Some(key) = keyed("metadata.labels") {
        return Some(pod.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(pod.annotations.get(key).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "spec.serviceAccountName" => pod.service_account.clone(),
        "spec.nodeName" => super::NODE_NAME.into(),
        "status.podIP" => pod.ip.clone(),
        "status.podIPs" => format!("{},{}", pod.ip, pod.ip6),
        "status.hostIP" | "status.hostIPs" => crate::local::network::NODE.to_string(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_in_kubernetes() {
        let vars = [
            ("A".to_owned(), "1".to_owned()),
            ("A".to_owned(), "2".to_owned()),
        ];
        for (text, expected) in [
            ("$(A)", "2"),
            ("x$(A)y$(B)", "x2y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $( $", "$A $( $"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &vars), expected, "{text}");
        }
    }

    #[test]
    fn fields_of_the_pod() {
        let pod = Identity {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "u".into(),
            ip: "10.244.0.2".into(),
            ip6: "fd00:10:244::2".into(),
            service_account: "web".into(),
            labels: BTreeMap::from([("app.kubernetes.io/name".into(), "web".into())]),
            annotations: BTreeMap::new(),
        };
        let path = "metadata.labels['app.kubernetes.io/name']";
        assert_eq!(field(path, &pod).as_deref(), Some("web"));
        assert_eq!(field("status.podIP", &pod).as_deref(), Some("10.244.0.2"));
        assert_eq!(field("status.nonsense", &pod), None);
    }
}
