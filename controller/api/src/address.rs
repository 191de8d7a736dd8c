//! Conversions between the wire's addresses and the standard library's.

use std::net::{IpAddr, SocketAddr};

use crate::v1;

/// The bytes are not an IP address, or the port does not fit 16 bits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Neither 4 nor 16 bytes.
    #[error("an IP address has 4 or 16 bytes, not {0}")]
    Length(usize),
    /// Above 65535.
    #[error("port {0} is above 65535")]
    Port(u32),
}

impl From<SocketAddr> for v1::Address {
    fn from(address: SocketAddr) -> Self {
        // An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d; the index knows a.b.c.d.
        let ip = match address.ip().to_canonical() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        Self {
            ip,
            port: address.port().into(),
        }
    }
}

impl TryFrom<&v1::Address> for SocketAddr {
    type Error = AddressError;

    fn try_from(address: &v1::Address) -> Result<Self, AddressError> {
        let ip = if let Ok(v4) = <[u8; 4]>::try_from(address.ip.as_slice()) {
            IpAddr::from(v4)
        } else if let Ok(v6) = <[u8; 16]>::try_from(address.ip.as_slice()) {
            IpAddr::from(v6)
        } else {
            return Err(AddressError::Length(address.ip.len()));
        };
        let port = u16::try_from(address.port).map_err(|_| AddressError::Port(address.port))?;
        Ok(Self::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(address: SocketAddr) {
            let mut expected = SocketAddr::new(address.ip().to_canonical(), address.port());
            if let SocketAddr::V6(v6) = &mut expected {
                v6.set_flowinfo(0);
                v6.set_scope_id(0);
            }
            prop_assert_eq!(SocketAddr::try_from(&v1::Address::from(address)), Ok(expected));
        }
    }

    #[test]
    fn rejects_nonsense() {
        let short = v1::Address {
            ip: vec![1, 2, 3],
            port: 1,
        };
        assert_eq!(SocketAddr::try_from(&short), Err(AddressError::Length(3)));
        let high = v1::Address {
            ip: vec![1, 2, 3, 4],
            port: 70_000,
        };
        assert_eq!(SocketAddr::try_from(&high), Err(AddressError::Port(70_000)));
    }
}
