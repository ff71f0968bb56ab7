//! The address at which other replicas reach a process, encoded in a fixed length.

use std::net::{Ipv6Addr, SocketAddr};

/// The address and port of a replica, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Home(Option<SocketAddr>);

/// The length of what [`Home::encode`] writes.
pub const HOME_LEN: usize = 18;

impl Home {
    /// A process that is reached at `address`.
    pub fn at(address: SocketAddr) -> Self {
        Self(Some(SocketAddr::new(address.ip().to_canonical(), address.port())))
    }

    /// The address, if there is one.
    pub fn address(self) -> Option<SocketAddr> {
        self.0
    }

    /// IPv6 address (IPv4 ones are mapped) and port; all zeros if there is none.
    pub fn encode(self) -> [u8; HOME_LEN] {
        let mut bytes = [0; HOME_LEN];
        let Some(address) = self.0 else { return bytes };
        let ip = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        let all = ip.octets().into_iter().chain(address.port().to_be_bytes());
        bytes.iter_mut().zip(all).for_each(|(place, byte)| *place = byte);
        bytes
    }

    /// What [`Home::encode`] wrote.
    pub fn decode(bytes: [u8; HOME_LEN]) -> Self {
        let (ip, port) = bytes.split_first_chunk::<16>().map_or(([0; 16], &[][..]), |(ip, port)| (*ip, port));
        let port = port.try_into().map_or(0, u16::from_be_bytes);
        if port == 0 { Self(None) } else { Self::at(SocketAddr::from((Ipv6Addr::from(ip), port))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_comes_back() {
        for text in ["10.1.2.3:4445", "[fd00::1]:1", "[::1]:65535"] {
            let home = Home::at(text.parse().unwrap());
            assert_eq!(Home::decode(home.encode()), home);
            assert_eq!(home.address().unwrap().to_string(), text);
        }
        assert_eq!(Home::at("[::ffff:10.0.0.1]:9".parse().unwrap()), Home::at("10.0.0.1:9".parse().unwrap()));
        assert_eq!(Home::decode(Home::default().encode()), Home::default());
    }
}
