//! The server behind every peer: nginx with one worker and no logs.

use std::{fs::File, path::Path, process::Command};

use super::{
    peer::{APP_H2_PORT, APP_PORT},
    process::Process,
    topology::Pod,
};

/// Serves `/small` (1 KB) and `/large` (100 KB) in the server's pod, and answers a POST to `/post` with 1 KB.
pub(super) fn start(scratch: &Path) -> anyhow::Result<Process> {
    let root = scratch.join("www");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("small"), vec![b's'; 1000])?;
    std::fs::write(root.join("large"), vec![b'l'; 100_000])?;
    let answer = "p".repeat(1000);
    let (root, folder) = (root.display(), scratch.display());
    let text = format!(
        "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/app.log;
user root;
events {{ worker_connections 15000; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_timeout 3600s;
  keepalive_requests 1000000000; open_file_cache max=10 inactive=3600s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen {APP_PORT} backlog=4096; root {root}; location /post {{ return 200 '{answer}'; }} }}
  server {{ listen {APP_H2_PORT} http2 backlog=4096; root {root}; }}
}}\n"
    );
    let config = scratch.join("nginx.conf");
    std::fs::write(&config, text)?;
    let log = scratch.join("app.log");
    let mut command = Command::new("nginx");
    command.arg("-e").arg(&log).arg("-c").arg(&config);
    Process::start("nginx", Some(Pod::Server), command, File::create(&log)?)
}
