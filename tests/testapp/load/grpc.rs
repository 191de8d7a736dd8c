//! Unary gRPC calls.

use std::{rc::Rc, time::Duration};

use anyhow::Result;
use http::Uri;
use mesh_tests::echo::{Call, echo_client::EchoClient};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::{Outcome, Plan};

/// The channel connects with its first call.
pub(super) fn channel(url: &Uri) -> Result<Channel> {
    let endpoint = Endpoint::from(url.clone()).tcp_nodelay(true);
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .connect_lazy())
}

pub(super) async fn worker(plan: Rc<Plan>, channel: Channel) {
    let mut client = EchoClient::new(channel);
    while let Some(due) = plan.next().await {
        let mut request = Request::new(Call::default());
        request.set_timeout(Duration::from_secs(10));
        let outcome = match client.unary(request).await {
            Ok(answer) => Outcome::Ok {
                replica: answer.into_inner().replica,
            },
            Err(status) => Outcome::Failed {
                replica: None,
                cause: format!("{:?} {}", status.code(), status.message()),
            },
        };
        plan.done(&due, outcome);
    }
}
