//! The name server of the sandbox: Services and pods of this mesh, and nothing else.
//!
//! The sandbox has no way out, so names of the world outside do not exist in it.

mod zone;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, SOA, SRV},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};

pub(crate) use zone::{DOMAIN, Zone};

use super::network::DNS;

/// Seconds for which answers may be kept: short, because pods come and go.
const TTL: u32 = 5;
/// A TCP client that says nothing for this long is left alone.
const IDLE: Duration = Duration::from_secs(10);
/// The largest answer over UDP that fits every link (DNS flag day 2020).
const UDP_LIMIT: u16 = 1232;

/// Contents of /etc/resolv.conf in a namespace.
pub(crate) fn resolv_conf(namespace: &str) -> String {
    format!(
        "nameserver {DNS}\nsearch {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n"
    )
}

/// Serves the zone on UDP and TCP until the runtime ends.
pub(crate) async fn serve(zone: watch::Receiver<Arc<Zone>>) -> anyhow::Result<()> {
    let address = SocketAddr::from((DNS, 53));
    let udp = UdpSocket::bind(address)
        .await
        .context("cannot serve DNS over UDP")?;
    let tcp = TcpListener::bind(address)
        .await
        .context("cannot serve DNS over TCP")?;
    let tcp_zone = zone.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            // An error here is another client's port that was closed.
            let Ok((length, client)) = udp.recv_from(&mut buffer).await else {
                continue;
            };
            if let Some(reply) = answer(&buffer[..length], &zone.borrow(), true) {
                let _ = udp.try_send_to(&reply, client);
            }
        }
    });
    tokio::spawn(async move {
        loop {
            if let Ok((stream, _)) = tcp.accept().await {
                tokio::spawn(serve_tcp(stream, tcp_zone.clone()));
            }
        }
    });
    Ok(())
}

async fn serve_tcp(mut stream: TcpStream, zone: watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; length.into()];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let zone = zone.borrow().clone();
        let Some(reply) = answer(&query, &zone, false) else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&reply).await?;
    }
}

/// The answer to a query; `None` where there is nothing to answer to.
fn answer(query: &[u8], zone: &Zone, udp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    let mut limit = 512;
    if let Some(edns) = &query.edns {
        limit = edns.max_payload().clamp(512, UDP_LIMIT);
        let mut own = Edns::new();
        own.set_max_payload(UDP_LIMIT);
        reply.set_edns(own);
    }
    match query.queries.as_slice() {
        _ if query.metadata.op_code != OpCode::Query => {
            reply.metadata.response_code = ResponseCode::NotImp;
        }
        [question] if question.query_class() == DNSClass::IN => {
            fill(&mut reply, question.name(), question.query_type(), zone);
        }
        [_] => reply.metadata.response_code = ResponseCode::Refused,
        _ => reply.metadata.response_code = ResponseCode::FormErr,
    }
    let bytes = reply.to_vec().ok()?;
    if udp && bytes.len() > limit.into() {
        // The client asks again over TCP.
        return reply.truncate().to_vec().ok();
    }
    Some(bytes)
}

fn fill(reply: &mut Message, name: &Name, kind: RecordType, zone: &Zone) {
    reply.metadata.authoritative = true;
    let text = name.to_lowercase().to_ascii();
    let found = zone.find(text.trim_end_matches('.'));
    let mut data: Vec<RData> = Vec::new();
    if let Some(records) = found {
        if matches!(kind, RecordType::A | RecordType::ANY) {
            data.extend(records.a.iter().map(|ip| RData::A(A(*ip))));
        }
        if matches!(kind, RecordType::AAAA | RecordType::ANY) {
            data.extend(records.aaaa.iter().map(|ip| RData::AAAA(AAAA(*ip))));
        }
        if matches!(kind, RecordType::SRV | RecordType::ANY) {
            let targets = records.srv.iter();
            data.extend(targets.filter_map(|(port, target)| {
                let target = Name::from_ascii(format!("{target}.")).ok()?;
                Some(RData::SRV(SRV::new(0, 100, *port, target)))
            }));
        }
    } else {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    // Clients that take the first address are spread.
    fastrand::shuffle(&mut data);
    if data.is_empty()
        && let Some(soa) = soa()
    {
        reply.add_authority(soa);
    }
    reply.add_answers(
        data.into_iter()
            .map(|data| Record::from_rdata(name.clone(), TTL, data)),
    );
}

/// Says for how long a "no" may be kept (RFC 2308).
fn soa() -> Option<Record> {
    let origin = Name::from_ascii(format!("{DOMAIN}.")).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{DOMAIN}.")).ok()?;
    let mailbox = Name::from_ascii(format!("hostmaster.{DOMAIN}.")).ok()?;
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(origin, TTL, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::Query;

    use super::*;

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Message::from_vec(&answer(&query.to_vec().unwrap(), zone, true).unwrap()).unwrap()
    }

    fn zone(pods: u8) -> Zone {
        let pods = (0..pods).map(|number| ("shop", Ipv4Addr::new(10, 244, 0, number)));
        Zone::new(&[], pods)
    }

    #[test]
    fn yes_no_and_not_that() {
        let zone = zone(1);
        let found = ask(&zone, "10-244-0-0.SHOP.pod.cluster.local.", RecordType::A);
        assert_eq!(found.answers.len(), 1);
        let none = ask(
            &zone,
            "10-244-0-0.shop.pod.cluster.local.",
            RecordType::AAAA,
        );
        assert_eq!(
            (none.metadata.response_code, none.answers.len()),
            (ResponseCode::NoError, 0)
        );
        assert_eq!(none.authorities.len(), 1);
        let no = ask(&zone, "example.org.", RecordType::A);
        assert_eq!(no.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn garbage_gets_no_answer() {
        assert!(answer(&[1, 2, 3], &zone(1), true).is_none());
    }
}
