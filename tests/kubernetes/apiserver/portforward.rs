//! pods/portforward, in memory only: a real API server forwards through a kubelet.

use kube::api::PostParams;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Place, object, pod, refusal};

#[tokio::test]
async fn bytes_go_both_ways_and_ends_are_told() {
    let Some(place) = Place::new().await else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    place
        .pods()
        .create(&PostParams::default(), &object(pod("a")))
        .await
        .expect("created");
    let refused = refusal(place.pods().portforward("a", &[9996]).await.map(|_| ()));
    assert_eq!((refused.code, refused.reason.as_str()), (400, "BadRequest"));
    assert_eq!(refused.message, "pod a does not have a host assigned");
    if !place
        .cluster
        .serve_pod_ports(&place.namespace, "a", [(9996, address)])
    {
        return;
    }
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut question = [0; 5];
        stream.read_exact(&mut question).await.expect("a question");
        stream
            .write_all(&[question.as_slice(), b" too"].concat())
            .await
            .expect("an answer");
    });
    let mut forwarder = place
        .pods()
        .portforward("a", &[9996])
        .await
        .expect("forwarded");
    let mut stream = forwarder.take_stream(9996).expect("a stream");
    stream.write_all(b"hello").await.expect("written");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("an answer and its end");
    assert_eq!(answer, "hello too");

    let mut forwarder = place
        .pods()
        .portforward("a", &[1])
        .await
        .expect("forwarded");
    let error = forwarder.take_error(1).expect("an error channel").await;
    assert!(error.is_some_and(|error| error.contains("connection refused")));
}
