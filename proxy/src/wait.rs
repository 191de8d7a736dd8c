//! Waits for the proxy of this pod, where Kubernetes does not: the postStart hook of a proxy that is an ordinary
//! container keeps the kubelet from starting the next one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use mesh_api::names;

use crate::config::{parse_duration, port};

const PAUSE: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST: &[u8] = b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n";
/// More than enough for the reason.
const ANSWER_LIMIT: u64 = 4096;

/// Flags of `mesh proxy wait`; each has an environment variable `MESH_…` too.
#[derive(clap::Args, Clone, Debug)]
pub struct WaitArgs {
    /// The proxy's admin port.
    #[arg(long, env = "MESH_ADMIN_PORT", default_value_t = port(names::ADMIN_PORT))]
    pub admin_port: NonZeroU16,
    /// How long at most, for example "120s".
    #[arg(long, env = "MESH_WAIT_TIMEOUT", default_value = "120s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// The proxy is not ready.
#[derive(Debug, thiserror::Error)]
#[error("the proxy at {address} is not ready after {timeout:?}: {reason}; its log says more")]
pub(crate) struct NotReady {
    address: SocketAddr,
    timeout: Duration,
    reason: String,
}

/// Asks the proxy until it is ready.
pub(crate) fn run(args: &WaitArgs) -> Result<(), NotReady> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.admin_port.get()));
    let end = Instant::now() + args.timeout;
    loop {
        let Err(reason) = ask(address) else {
            return Ok(());
        };
        if Instant::now() + PAUSE > end {
            let timeout = args.timeout;
            return Err(NotReady {
                address,
                timeout,
                reason,
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks the proxy at this address of its admin port, once.
///
/// # Errors
/// It is not ready, and this is why.
pub(crate) fn ask(address: SocketAddr) -> Result<(), String> {
    match answer(address) {
        Ok(answer) if answer.split_whitespace().nth(1) == Some("200") => Ok(()),
        Ok(answer) => Err(answer.lines().last().unwrap_or_default().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn answer(address: SocketAddr) -> io::Result<String> {
    let mut proxy = TcpStream::connect_timeout(&address, REQUEST_TIMEOUT)?;
    proxy.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    proxy.write_all(REQUEST)?;
    let mut answer = String::new();
    proxy.take(ANSWER_LIMIT).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection after the other.
    fn proxy(answers: &'static [&'static str]) -> WaitArgs {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let admin_port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut client, _) = listener.accept().unwrap();
                let mut request = vec![0; REQUEST.len()];
                client.read_exact(&mut request).unwrap();
                client.write_all(answer.as_bytes()).unwrap();
            }
        });
        WaitArgs {
            admin_port: admin_port.try_into().unwrap(),
            timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn ends_when_the_proxy_is_ready() {
        let answers = &[
            "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: no certificate\n",
            "HTTP/1.1 200 OK\r\n\r\nready\n",
        ];
        run(&proxy(answers)).unwrap();
    }

    #[test]
    fn says_what_is_missing() {
        let mut args =
            proxy(&["HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: no certificate\n"]);
        args.timeout = Duration::ZERO;
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("not ready: no certificate"), "{error}");
    }
}
