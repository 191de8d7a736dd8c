//! Servers from Debian with their own clients, by `mesh up`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_tests::{Mesh, Options, binary, figure, manifest::App, metrics, pattern, skip};

/// The paths of programs, or a printed reason to skip.
fn programs<const N: usize>(test: &str, names: [&str; N]) -> Option<[String; N]> {
    let mut paths = names.map(str::to_owned);
    for path in &mut paths {
        let Some(found) = binary::find(path).or_else(|| postgres_program(path)) else {
            skip(test, &format!("{path} is not installed"));
            return None;
        };
        *path = found.to_string_lossy().into_owned();
    }
    Some(paths)
}

/// Debian keeps PostgreSQL's servers by version.
fn postgres_program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .find(|path| path.is_file())
}

fn assert_secured(mesh: &Mesh, pod: &str) {
    let text = mesh.metrics(pod);
    let secured = metrics::sum(&text, "tcp_open_total", &["outbound", "tls=\"true\""]);
    figure!("{secured} connections over mTLS");
    assert!(secured >= 1.0, "{text}");
}

#[test]
fn redis() {
    let Some([server, cli, benchmark]) =
        programs("redis", ["redis-server", "redis-cli", "redis-benchmark"])
    else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder for redis");
    let path = folder.path().to_str().expect("a plain path");
    let command = [
        &server,
        "--bind",
        "0.0.0.0",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        path,
    ];
    let redis = App::new("redis", command).port(6379).ready_on(6379);
    let Some(mesh) = Mesh::up(
        "redis",
        &[redis, App::client("client")],
        &Options::default(),
    ) else {
        return;
    };
    let pod = mesh.pod("client");
    let redis = |arguments: &[&str]| {
        mesh.exec(&pod, [&[cli.as_str(), "-h", "redis"], arguments].concat())
            .good()
    };
    assert_eq!(redis(&["ping"]), "PONG\n");
    assert_eq!(redis(&["set", "key", "value"]), "OK\n");
    assert_eq!(redis(&["get", "key"]), "value\n");
    let subscribed = mesh.start(&pod, [&cli, "-h", "redis", "subscribe", "news"]);
    subscribed.wait_for("subscribe", Duration::from_secs(10));
    redis(&["publish", "news", "extra"]);
    subscribed.wait_for("extra", Duration::from_secs(10));
    let bench = [
        &benchmark, "-h", "redis", "-n", "20000", "-c", "20", "-q", "-t", "set,get",
    ];
    let output = mesh.exec(&pod, bench).good().replace('\r', "\n");
    output
        .lines()
        .filter(|line| line.contains("per second"))
        .for_each(|line| figure!("{line}"));
    assert_secured(&mesh, &pod);
}

#[test]
fn nginx() {
    let Some([server, curl]) = programs("nginx", ["nginx", "curl"]) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder for nginx");
    let path = folder.path().display();
    let bytes: Vec<u8> = pattern::pieces(50_000_000).flatten().collect();
    fs::write(folder.path().join("large"), &bytes).expect("a large file");
    // An ordinary user is root in the sandbox, too, but the only user there.
    let config = format!(
        "user root; daemon off; master_process off; pid {path}/pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
         fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
         server {{ listen 8080; listen [::]:8080; root {path}; }} }}\n"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config).expect("the configuration");
    let file = file.to_string_lossy().into_owned();
    let nginx = App::new("nginx", [&server, "-e", "stderr", "-c", &file])
        .port(8080)
        .ready_on(8080)
        .replicas(2);
    let Some(mesh) = Mesh::up(
        "nginx",
        &[nginx, App::client("client")],
        &Options::default(),
    ) else {
        return;
    };
    let pod = mesh.pod("client");
    let hash = format!("{curl} -sS http://nginx:8080/large | sha256sum");
    let output = mesh.exec(&pod, ["sh", "-c", &hash]).good();
    assert!(output.starts_with(&pattern::sha256(50_000_000)), "{output}");
    let range = [
        "-sS",
        "-r",
        "100-199",
        "http://nginx:8080/large",
        "-o",
        "/dev/null",
        "-w",
    ];
    let output = mesh.exec(
        &pod,
        [
            &[curl.as_str()],
            &range[..],
            &["%{http_code} %{size_download}"],
        ]
        .concat(),
    );
    assert_eq!(output.good(), "206 100");
    assert_secured(&mesh, &pod);
}

#[test]
fn postgres() {
    let Some([initdb, server, psql]) = programs("PostgreSQL", ["initdb", "postgres", "psql"])
    else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder for PostgreSQL");
    let data = folder.path().join("data");
    let keys = self_signed(folder.path());
    let user = nix::unistd::geteuid();
    let script = folder.path().join("start");
    let text = format!(
        "set -e\n\
         {initdb} -D {data} -U app --auth=trust --no-sync >/dev/null\n\
         cp {keys}/server.crt {keys}/server.key {data}\n\
         chmod 600 {data}/server.key\n\
         echo 'host all all all trust' >> {data}/pg_hba.conf\n\
         exec {server} -D {data} -c listen_addresses='*' -c unix_socket_directories= -c ssl=on -c fsync=off\n",
        data = data.display(),
        keys = keys.display(),
    );
    fs::write(&script, text).expect("the start script");
    let mut postgres = App::new("postgres", ["sh".into(), script.to_string_lossy()]);
    postgres = postgres.port(5432).ready_on(5432);
    if user.is_root() {
        // PostgreSQL refuses to run as root.
        let Ok(Some(account)) = nix::unistd::User::from_name("postgres") else {
            return skip("PostgreSQL", "there is no user postgres");
        };
        nix::unistd::chown(folder.path(), Some(account.uid), Some(account.gid)).expect("chown");
        postgres = postgres.user(account.uid.as_raw());
    } else {
        postgres = postgres.user(user.as_raw());
    }
    let apps = [postgres, App::client("client")];
    let Some(mesh) = Mesh::up("PostgreSQL", &apps, &Options::default()) else {
        return;
    };
    let pod = mesh.pod("client");
    let query = |mode: &str, sql: &str| {
        let address = format!("host=postgres user=app dbname=postgres sslmode={mode}");
        mesh.exec(&pod, [&psql, "-X", "-A", "-t", "-c", sql, &address])
            .good()
    };
    assert_eq!(query("disable", "select 6 * 7"), "42\n");
    let ssl = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(query("disable", ssl), "f|\n");
    assert_eq!(query("require", ssl), "t|TLSv1.3\n");
    let rows = "select count(*), sum(n) from generate_series(1, 100000) n";
    assert_eq!(query("require", rows), "100000|5000050000\n");
    figure!("plain and with its own TLS inside");
    assert_secured(&mesh, &pod);
}

/// A folder with a certificate and its key.
fn self_signed(folder: &Path) -> PathBuf {
    let keys = folder.join("keys");
    fs::create_dir(&keys).expect("a folder for the keys");
    let made = rcgen::generate_simple_self_signed(["postgres".to_owned()]).expect("a certificate");
    fs::write(keys.join("server.crt"), made.cert.pem()).expect("the certificate");
    fs::write(keys.join("server.key"), made.signing_key.serialize_pem()).expect("the key");
    keys
}
