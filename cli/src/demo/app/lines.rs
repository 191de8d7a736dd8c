//! The services that speak lines over TCP: the store (the client speaks first) and the mailer (the server
//! speaks first), each with its client.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Mutex,
};

use super::{
    MAILER_PORT, STORE_PORT,
    serve::{self, Stop},
};

const MAX_LINE: u64 = 4096;
const MAX_ITEMS: usize = 100;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps lists of words: `ADD key word`, `LIST key`, `CLEAR key`; one line is answered by one line.
///
/// # Errors
/// Its port is taken.
pub(super) async fn store() -> Result<()> {
    type Lists = Arc<Mutex<HashMap<String, Vec<String>>>>;
    let lists = Lists::default();
    serve::tcp(STORE_PORT, move |stream, stop| {
        let lists = lists.clone();
        converse(stream, stop, "", move |line| {
            let lists = lists.clone();
            async move {
                let words: Vec<&str> = line.splitn(3, ' ').collect();
                let mut lists = lists.lock().await;
                match words.as_slice() {
                    ["ADD", key, word] => {
                        let list = lists.entry((*key).to_owned()).or_default();
                        list.push((*word).to_owned());
                        if list.len() > MAX_ITEMS {
                            list.clear();
                        }
                        format!("OK {}", list.len())
                    }
                    ["LIST", key] => {
                        let list = lists.get(*key).map(|list| list.join(","));
                        format!("OK {}", list.unwrap_or_default())
                    }
                    ["CLEAR", key] => {
                        lists.remove(*key);
                        "OK 0".into()
                    }
                    _ => "ERROR unknown command".into(),
                }
            }
        })
    })
    .await
}

/// Takes mail as SMTP does (RFC 5321), as far as the shop's client goes: greets first, then answers.
///
/// # Errors
/// Its port is taken.
pub(super) async fn mailer() -> Result<()> {
    serve::tcp(MAILER_PORT, |stream, stop| {
        converse(stream, stop, "220 mailer ready\r\n", |line| async move {
            match line.split(' ').next().unwrap_or_default() {
                "QUIT" => "221 bye\r".into(),
                "HELO" | "MAIL" | "RCPT" => "250 ok\r".into(),
                _ => "500 unknown command\r".into(),
            }
        })
    })
    .await
}

/// Sends a mail to `customer`.
///
/// # Errors
/// The server does not greet or refuses.
pub(super) async fn send_mail(server: &str, customer: &str) -> Result<()> {
    let mut server = Lines::connect(server).await?;
    server.expect("220").await?;
    for line in [
        "HELO web".to_owned(),
        "MAIL FROM:<orders@shop>".to_owned(),
        format!("RCPT TO:<{customer}>"),
    ] {
        server.write(&line).await?;
        server.expect("250").await?;
    }
    server.write("QUIT").await?;
    server.expect("221").await?;
    Ok(())
}

/// A client of the store with one connection, made anew when it breaks. Cheap to clone.
#[derive(Clone)]
pub(super) struct StoreClient {
    server: Arc<str>,
    connection: Arc<Mutex<Option<Lines>>>,
}

impl StoreClient {
    pub(super) fn new(server: String) -> Self {
        Self {
            server: server.into(),
            connection: Arc::default(),
        }
    }

    /// The answer to one command.
    ///
    /// # Errors
    /// The store does not answer, or not with OK.
    pub(super) async fn ask(&self, command: &str) -> Result<String> {
        let mut connection = self.connection.lock().await;
        // The kept connection may have died with the store it led to; only a new one tells.
        if let Some(kept) = connection.as_mut()
            && let Ok(answer) = kept.ask(command).await
        {
            return Ok(answer);
        }
        *connection = None;
        let mut fresh = Lines::connect(&self.server).await?;
        let answer = fresh.ask(command).await?;
        *connection = Some(fresh);
        Ok(answer)
    }
}

/// A connection that carries lines.
struct Lines {
    stream: BufReader<TcpStream>,
}

impl Lines {
    async fn connect(server: &str) -> Result<Self> {
        let stream = tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(server))
            .await
            .with_context(|| format!("{server} does not answer"))?
            .with_context(|| format!("Can't connect to {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    async fn ask(&mut self, command: &str) -> Result<String> {
        self.write(command).await?;
        self.expect("OK").await
    }

    async fn write(&mut self, line: &str) -> Result<()> {
        self.stream
            .write_all(format!("{line}\r\n").as_bytes())
            .await?;
        Ok(())
    }

    /// The rest of a line that starts with `word`.
    async fn expect(&mut self, word: &str) -> Result<String> {
        let read = read_line(&mut self.stream);
        let line = tokio::time::timeout(ANSWER_TIMEOUT, read)
            .await
            .context("no answer")??;
        match line.as_deref().and_then(|line| line.strip_prefix(word)) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!("expected {word}, got {line:?}"),
        }
    }
}

/// Greets, then answers each line until the client leaves, says QUIT, or the server stops.
async fn converse<F, Fut>(stream: TcpStream, mut stop: Stop, greeting: &str, answer: F)
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = String>,
{
    let mut stream = BufReader::new(stream);
    if stream.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    loop {
        let line = tokio::select! {
            line = read_line(&mut stream) => line,
            _ = stop.changed() => return,
        };
        let Ok(Some(line)) = line else { return };
        let quit = line == "QUIT";
        let answer = answer(line).await;
        let sent = stream.write_all(format!("{answer}\n").as_bytes()).await;
        if sent.is_err() || quit {
            return;
        }
    }
}

/// The next line without its end; none at the end of the stream.
async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut line = String::new();
    let read = stream.take(MAX_LINE).read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, sync::watch};

    use super::*;

    /// A server on a free port that answers as `converse` is told; it ends with the test's runtime.
    async fn served(greeting: &'static str) -> (String, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let echo = |line: String| async move { format!("OK {line}") };
                tokio::spawn(converse(stream, stopped.clone(), greeting, echo));
            }
        });
        (address, stop)
    }

    #[tokio::test]
    async fn the_server_may_speak_first() {
        let (address, _stop) = served("220 ready\r\n").await;
        let mut client = Lines::connect(&address).await.unwrap();
        assert_eq!(client.expect("220").await.unwrap(), "ready");
    }

    #[tokio::test]
    async fn the_store_client_survives_a_broken_connection() {
        let (address, _stop) = served("").await;
        let client = StoreClient::new(address);
        assert_eq!(client.ask("LIST a").await.unwrap(), "LIST a");
        // The server closes after QUIT; the next command needs a new connection.
        assert_eq!(client.ask("QUIT").await.unwrap(), "QUIT");
        assert_eq!(client.ask("LIST b").await.unwrap(), "LIST b");
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_conversation_not_the_server() {
        let (address, _stop) = served("").await;
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream
            .write_all(&vec![b'x'; 3 * MAX_LINE as usize])
            .await
            .unwrap();
        let mut lines = BufReader::new(stream);
        let line = read_line(&mut lines).await.unwrap().unwrap();
        assert!(line.len() <= MAX_LINE as usize + 3);
    }
}
