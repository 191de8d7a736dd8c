//! TCP: nothing is known of the bytes.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Result, bail, ensure};
use mesh_tests::pattern;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::Checks;

#[derive(clap::Args)]
pub(crate) struct Args {
    host: String,
    #[arg(long)]
    echo: u16,
    #[arg(long)]
    banner: u16,
    #[arg(long)]
    digest: u16,
    #[arg(long)]
    reset: u16,
}

pub(super) async fn run(checks: &mut Checks, args: &Args) {
    let host = args.host.as_str();
    checks
        .run("bytes come back as they were sent", echo(host, args.echo))
        .await;
    checks
        .run(
            "100 MB upwards, half-close, answer",
            digest(host, args.digest, 100 << 20),
        )
        .await;
    checks
        .run(
            "a server that speaks first, first connection",
            banner(host, args.banner),
        )
        .await;
    checks
        .run(
            "a server that speaks first, second connection",
            banner(host, args.banner),
        )
        .await;
    checks
        .run("half-close without a byte", digest(host, args.digest, 0))
        .await;
    checks
        .run("a reset stays a reset", reset(host, args.reset))
        .await;
    checks.run("a closed port refuses", refused(host)).await;
}

async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn echo(host: &str, port: u16) -> Result<String> {
    let mut stream = connect(host, port).await?;
    for text in [
        "\x00\x01binary",
        "GETTY is no method\n",
        "PRI * but not HTTP/2\n",
        "\x16\x03",
    ] {
        stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        timeout(Duration::from_secs(5), stream.read_exact(&mut back)).await??;
        ensure!(back == text.as_bytes(), "{back:?} came back for {text:?}");
    }
    Ok(String::new())
}

async fn digest(host: &str, port: u16, length: u64) -> Result<String> {
    let start = Instant::now();
    let mut stream = connect(host, port).await?;
    for piece in pattern::pieces(length) {
        stream.write_all(&piece).await?;
    }
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let expected = format!("{length} {}\n", pattern::sha256(length));
    ensure!(answer == expected, "the server saw {answer:?}");
    let rate = length as f64 / start.elapsed().as_secs_f64() / 1e6;
    Ok(format!("{rate:.0} MB/s"))
}

async fn banner(host: &str, port: u16) -> Result<String> {
    let start = Instant::now();
    let stream = connect(host, port).await?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    timeout(Duration::from_secs(5), stream.read_line(&mut line)).await??;
    let waited = start.elapsed();
    ensure!(line == "220 testapp ready\r\n", "{line:?}");
    ensure!(
        waited < Duration::from_millis(100),
        "the banner took {waited:?}"
    );
    stream.get_mut().write_all(b"and on\n").await?;
    line.clear();
    stream.read_line(&mut line).await?;
    ensure!(line == "and on\n", "{line:?}");
    Ok(format!("{:.1} ms", waited.as_secs_f64() * 1000.0))
}

async fn reset(host: &str, port: u16) -> Result<String> {
    let mut stream = connect(host, port).await?;
    stream.write_all(b"a line\n").await?;
    let mut got = Vec::new();
    match timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await? {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(String::new()),
        Err(error) => bail!("expected a reset, got {error}"),
        Ok(_) => bail!(
            "expected a reset, got an orderly end after {} bytes",
            got.len()
        ),
    }
}

/// The proxy has accepted already when it learns that nobody listens: it can only break off.
async fn refused(host: &str) -> Result<String> {
    match timeout(Duration::from_secs(8), async {
        let mut stream = connect(host, 9).await?;
        let _ = stream.write_all(b"anybody?\n").await;
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        ensure!(got.is_empty(), "somebody answered {got:?}");
        Ok("accepted, then closed")
    })
    .await
    {
        Ok(Ok(how)) => Ok(how.to_owned()),
        Ok(Err(_)) => Ok("refused".to_owned()),
        Err(_) => bail!("neither refused nor closed in 8 s"),
    }
}
