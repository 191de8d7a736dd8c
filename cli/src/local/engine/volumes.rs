//! A pod's volumes: folders on the state tmpfs, or of the host.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::pod::Pod;
use crate::local::{manifest::VolumeSource, sandbox::Volume};

impl Pod {
    /// Fills the volumes; those that containers mount become mounts of the pod.
    pub(super) fn volumes(&self) -> Result<Vec<Volume>, String> {
        let template = &self.template;
        let mut mounted: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for container in template.containers.iter().chain(&template.init_containers) {
            for (name, target) in &container.mounts {
                // A volume of a kind that is not honoured has been named in a warning.
                let Some(volume) = template.volumes.get(name) else {
                    continue;
                };
                let source = self.fill(name, volume)?;
                mounted.insert(target.clone(), source);
            }
        }
        let volumes = mounted.into_iter();
        Ok(volumes
            .map(|(target, source)| Volume { source, target })
            .collect())
    }

    fn fill(&self, name: &str, volume: &VolumeSource) -> Result<PathBuf, String> {
        let (maps, map) = match volume {
            VolumeSource::HostPath(path) => return Ok(path.clone()),
            VolumeSource::EmptyDir => (None, name),
            VolumeSource::ConfigMap(map) => (Some(&self.manifests.config_maps), map.as_str()),
            VolumeSource::Secret(map) => (Some(&self.manifests.secrets), map.as_str()),
        };
        let dir = self.network.dir.join("volumes").join(name);
        let written = write_volume(
            &dir,
            maps.map(|maps| maps.get(&(self.identity.namespace.clone(), map.to_owned()))),
        );
        written.map_err(|error| format!("volume {name}: {error}"))?;
        Ok(dir)
    }
}

type Data = BTreeMap<String, Vec<u8>>;

fn write_volume(dir: &Path, data: Option<Option<&Data>>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    let Some(data) = data else {
        return Ok(());
    };
    let data = data.ok_or_else(|| io::Error::other("its config map or secret does not exist"))?;
    for (name, value) in data {
        fs::write(dir.join(name), value)?;
    }
    Ok(())
}
