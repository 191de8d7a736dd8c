//! A pod's volumes, and where its containers see them.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1 as k8s;

use super::names;

/// Mode of a config map's files where nothing else is said (Kubernetes' API reference, `defaultMode`).
const MODE: u32 = 0o644;

/// What is in a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Volume {
    EmptyDir,
    ConfigMap(Files),
    Secret(Files),
    HostPath(PathBuf),
}

/// The keys of a config map or secret as files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Files {
    /// Of the config map or secret, in the pod's namespace.
    pub(crate) name: String,
    /// It and its keys may be missing.
    pub(crate) optional: bool,
    /// The only keys that become files, and how; none: all, each named as its key.
    pub(crate) items: Option<Vec<Item>>,
    /// Permissions of the files that name none.
    pub(crate) mode: u32,
}

/// One key as a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) key: String,
    /// Below the volume.
    pub(crate) path: PathBuf,
    pub(crate) mode: Option<u32>,
}

/// A volume, or a part of it, in a container's file system.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mount {
    /// The volume's name.
    pub(crate) volume: String,
    /// Where the container sees it.
    pub(crate) target: PathBuf,
    /// The file or folder of the volume that is mounted; empty: all of it.
    pub(crate) part: PathBuf,
}

impl Volume {
    /// By name. A volume of a kind that is not honoured, which a warning names, is left out.
    pub(super) fn parse_all(spec: &k8s::PodSpec) -> anyhow::Result<BTreeMap<String, Self>> {
        let mut volumes = BTreeMap::new();
        for volume in spec.volumes.iter().flatten() {
            names::label(&volume.name).with_context(|| format!("volume {:?}", volume.name))?;
            let parsed = Self::parse(volume).with_context(|| format!("volume {}", volume.name))?;
            if let Some(parsed) = parsed
                && volumes.insert(volume.name.clone(), parsed).is_some()
            {
                bail!("two volumes are named {}", volume.name);
            }
        }
        Ok(volumes)
    }

    fn parse(volume: &k8s::Volume) -> anyhow::Result<Option<Self>> {
        let items = |items: &Option<Vec<k8s::KeyToPath>>| {
            let items = items.as_ref().filter(|items| !items.is_empty());
            items
                .map(|items| items.iter().map(Item::parse).collect())
                .transpose()
        };
        Ok(Some(if volume.empty_dir.is_some() {
            Self::EmptyDir
        } else if let Some(map) = &volume.config_map {
            Self::ConfigMap(Files {
                name: map.name.clone(),
                optional: map.optional == Some(true),
                items: items(&map.items)?,
                mode: mode(map.default_mode)?.unwrap_or(MODE),
            })
        } else if let Some(secret) = &volume.secret {
            Self::Secret(Files {
                name: secret
                    .secret_name
                    .clone()
                    .context("secret.secretName is missing")?,
                optional: secret.optional == Some(true),
                items: items(&secret.items)?,
                mode: mode(secret.default_mode)?.unwrap_or(MODE),
            })
        } else if let Some(host) = &volume.host_path {
            Self::HostPath(PathBuf::from(&host.path))
        } else {
            return Ok(None);
        }))
    }
}

impl Item {
    fn parse(item: &k8s::KeyToPath) -> anyhow::Result<Self> {
        Ok(Self {
            key: item.key.clone(),
            path: inside(&item.path)?,
            mode: mode(item.mode)?,
        })
    }
}

impl Mount {
    pub(super) fn parse_all(container: &k8s::Container) -> anyhow::Result<Vec<Self>> {
        let mounts = container.volume_mounts.iter().flatten();
        let parsed = mounts.map(|mount| {
            let what = || format!("container {}: volumeMount {}", container.name, mount.name);
            let target = PathBuf::from(&mount.mount_path);
            if !target.is_absolute() {
                bail!("{}: mountPath must begin with a slash", what());
            }
            Ok(Self {
                volume: mount.name.clone(),
                target,
                part: inside(mount.sub_path.as_deref().unwrap_or_default()).with_context(what)?,
            })
        });
        parsed.collect()
    }
}

/// A path that does not lead out of the folder that it is joined to.
fn inside(path: &str) -> anyhow::Result<PathBuf> {
    let own = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(path).components().all(own) {
        bail!("{path:?} must be a path inside of the volume, without '..'");
    }
    Ok(PathBuf::from(path))
}

fn mode(mode: Option<i32>) -> anyhow::Result<Option<u32>> {
    mode.map(|mode| {
        let mode = u32::try_from(mode).ok().filter(|mode| *mode <= 0o777);
        mode.context("a mode must be from 0 to 0777")
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_of_their_volume() {
        for path in ["", "a", "a/b.conf", "./a"] {
            assert!(inside(path).is_ok(), "{path}");
        }
        for path in ["/a", "..", "a/../../b"] {
            assert!(inside(path).is_err(), "{path}");
        }
    }
}
