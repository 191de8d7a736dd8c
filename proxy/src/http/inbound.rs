//! Requests to this pod's app.

use std::rc::Rc;

use crate::detect::HttpVersion;
use crate::inbound::{App, Caller};
use crate::io::Io;
use crate::worker::Worker;

/// Serves one connection of a caller until it ends.
pub async fn serve(
    _worker: Rc<Worker>,
    _io: Io,
    _version: HttpVersion,
    _caller: Caller,
    _app: Rc<App>,
) {
}
