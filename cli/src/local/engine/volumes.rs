//! A pod's volumes: folders on the state tmpfs, or of the host.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::pod::Pod;
use crate::local::{
    manifest::{self, Files},
    sandbox::Volume,
};

impl Pod {
    /// Fills the volumes; what containers mount of them become mounts of the pod.
    pub(super) fn volumes(&self) -> Result<Vec<Volume>, String> {
        let template = &self.template;
        let mut mounted: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for container in template.containers.iter().chain(&template.init_containers) {
            for mount in &container.mounts {
                let name = &mount.volume;
                // A volume of a kind that is not honoured has been named in a warning.
                let Some(volume) = template.volumes.get(name) else {
                    continue;
                };
                let source = self.fill(name, volume)?;
                let source = part(&source, &mount.part, volume)
                    .map_err(|error| format!("volume {name}: {error}"))?;
                mounted.insert(mount.target.clone(), source);
            }
        }
        let volumes = mounted.into_iter();
        Ok(volumes
            .map(|(target, source)| Volume { source, target })
            .collect())
    }

    fn fill(&self, name: &str, volume: &manifest::Volume) -> Result<PathBuf, String> {
        let (what, maps, files) = match volume {
            manifest::Volume::HostPath(path) => return Ok(path.clone()),
            manifest::Volume::EmptyDir => ("", None, None),
            manifest::Volume::ConfigMap(files) => {
                ("config map", Some(&self.manifests.config_maps), Some(files))
            }
            manifest::Volume::Secret(files) => {
                ("secret", Some(&self.manifests.secrets), Some(files))
            }
        };
        let dir = self.network.dir.join("volumes").join(name);
        let fill = || -> Result<(), String> {
            make_folder(&dir).map_err(|error| error.to_string())?;
            let (Some(maps), Some(files)) = (maps, files) else {
                return Ok(());
            };
            match maps.get(&(self.identity.namespace.clone(), files.name.clone())) {
                Some(data) => write(&dir, data, files),
                None if files.optional => Ok(()),
                None => Err(format!("there is no {what} {}", files.name)),
            }
        };
        fill().map_err(|error| format!("volume {name}: {error}"))?;
        Ok(dir)
    }
}

/// The part of a volume that is mounted. In an empty volume it becomes a folder, as kubelet makes it.
fn part(volume: &Path, part: &Path, kind: &manifest::Volume) -> Result<PathBuf, String> {
    if part.as_os_str().is_empty() {
        return Ok(volume.to_owned());
    }
    let path = volume.join(part);
    if path.exists() {
        return Ok(path);
    }
    if *kind != manifest::Volume::EmptyDir {
        return Err(format!("there is no {} in it", part.display()));
    }
    make_folder(&path).map_err(|error| error.to_string())?;
    Ok(path)
}

/// The keys as files: all of them, or those that are chosen.
fn write(dir: &Path, data: &BTreeMap<String, Vec<u8>>, files: &Files) -> Result<(), String> {
    let Some(items) = &files.items else {
        return data
            .iter()
            .try_for_each(|(name, value)| file(&dir.join(name), value, files.mode))
            .map_err(|error| error.to_string());
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                let path = dir.join(&item.path);
                let mode = item.mode.unwrap_or(files.mode);
                file(&path, value, mode).map_err(|error| error.to_string())?;
            }
            None if files.optional => {}
            None => return Err(format!("there is no key {} in {}", item.key, files.name)),
        }
    }
    Ok(())
}

fn file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Filled once for each container that mounts it, and again where the pod is set up again: an earlier file may
    // not be open for writing.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Containers may run as any user.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::manifest::Item;

    #[test]
    fn chosen_keys_become_files_with_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let data = BTreeMap::from([
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), b"2".to_vec()),
        ]);
        let item = |key: &str| Item {
            key: key.into(),
            path: "conf.d/x.conf".into(),
            mode: Some(0o400),
        };
        let mut files = Files {
            name: "web".into(),
            optional: false,
            items: Some(vec![item("b")]),
            mode: 0o640,
        };
        for _ in 0..2 {
            write(dir.path(), &data, &files).unwrap();
        }
        let path = dir.path().join("conf.d/x.conf");
        assert_eq!(fs::read(&path).unwrap(), b"2");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o400);
        assert!(!dir.path().join("a").exists());

        files.items = None;
        write(dir.path(), &data, &files).unwrap();
        assert_eq!(mode(&dir.path().join("a")), 0o640);

        files.items = Some(vec![item("c")]);
        assert_eq!(
            write(dir.path(), &data, &files).unwrap_err(),
            "there is no key c in web"
        );
        files.optional = true;
        assert!(write(dir.path(), &data, &files).is_ok());
    }
}
