//! Requests of this pod's own apps.

use std::rc::Rc;

use crate::detect::HttpVersion;
use crate::io::Io;
use crate::target::Target;
use crate::worker::Worker;

/// Serves one connection of an app until it ends.
pub async fn serve(_worker: Rc<Worker>, _io: Io, _version: HttpVersion, _target: Rc<Target>) {}
