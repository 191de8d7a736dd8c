//! Connections that are only there, and the first one that is answered.

use std::{io::Read as _, rc::Rc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{LoadArgs, connection::Connection};

/// Connections that are opened at a time: a burst would measure the queue of the listener.
const AT_ONCE: usize = 32;
/// Between two questions.
const PAUSE: Duration = Duration::from_micros(500);

/// Opens the connections, says so in a line, and closes them when the input ends.
pub(super) async fn hold(args: &LoadArgs) -> anyhow::Result<()> {
    let permits = Rc::new(Semaphore::new(AT_ONCE));
    let mut opening = JoinSet::new();
    for _ in 0..args.concurrency {
        let (args, permits) = (args.clone(), permits.clone());
        opening.spawn_local(async move {
            let _permit = permits.acquire().await?;
            let mut connection = Connection::open(&args).await?;
            connection.get().await?;
            anyhow::Ok(connection)
        });
    }
    let mut held = Vec::with_capacity(args.concurrency);
    while let Some(connection) = opening.join_next().await {
        held.push(connection?.with_context(|| format!("after {} connections", held.len()))?);
    }
    println!("held");
    // Nothing else is to happen on this thread.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Says that it begins, and that it was answered.
pub(super) async fn first_answer(args: &LoadArgs, patience: Duration) -> anyhow::Result<()> {
    println!("asking");
    let end = Instant::now() + patience;
    loop {
        let ask = async { Connection::open(args).await?.get().await };
        let error = match timeout(patience, ask).await {
            Ok(Ok(_)) => {
                println!("answered");
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(late) => late.into(),
        };
        if Instant::now() > end {
            bail!(
                "{} did not answer with 200 within {patience:?}: {error:#}",
                args.address
            );
        }
        sleep(PAUSE).await;
    }
}
