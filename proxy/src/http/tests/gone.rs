//! Clients that do not wait for the answer.

use std::{rc::Rc, time::Duration};

use tokio::time::sleep;

use super::support::{CLIENT, Text, listen, run};
use crate::{
    detect::HttpVersion::Http1, http::outbound, metrics::Metrics, tls::Tls, worker::Worker,
};

/// What is counted of a client that sends `request` to an app that does not answer, and goes away.
async fn counted(request: &str) -> String {
    let app = listen(|tcp| async move {
        Text::from(tcp).rest().await;
    })
    .await;
    let metrics = Metrics::new();
    let mut worker = Worker::for_test(Tls::new());
    Rc::get_mut(&mut worker).unwrap().metrics = metrics.worker();
    let proxy = listen(move |tcp| {
        let worker = worker.clone();
        async move {
            let target = worker.target(app);
            outbound::serve(worker, tcp.into(), CLIENT, Http1, target).await;
        }
    })
    .await;
    let mut client = Text::connect(proxy).await;
    client.send(request).await;
    sleep(Duration::from_millis(50)).await;
    drop(client);
    sleep(Duration::from_millis(50)).await;
    let text = metrics.encode();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("response_total{"));
    lines.collect()
}

#[test]
fn a_request_whose_client_goes_away_before_the_answer_is_counted() {
    run(async {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let line = counted(request).await;
        assert!(line.contains("classification=\"success\""), "{line:?}");
        assert!(!line.contains("status_code"), "{line}");
        assert!(line.ends_with(" 1"), "counted once: {line}");

        // Amid its body too.
        let line = counted("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel").await;
        assert!(line.contains("classification=\"success\""), "{line:?}");
        assert!(line.ends_with(" 1"), "counted once: {line}");
    });
}
