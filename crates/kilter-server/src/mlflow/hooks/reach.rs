//! Which addresses webhooks may be sent to.
//!
//! Whoever registers a webhook has this server call it, from where this server stands: so what only this server reaches is refused, unless it was named.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use kilter_tracking::{Error, Result};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long a name is looked up when a webhook is registered.
const LOOKUP: Duration = Duration::from_secs(3);

/// Where webhooks may be sent beside public addresses over https.
#[derive(Clone, Debug, Default)]
pub struct WebhookOptions {
    /// Over http as well, where anybody on the way can read it.
    pub allow_http: bool,
    /// Networks that are called although they are not public.
    pub networks: Vec<Network>,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let shared = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let read = || {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
            Some(Network { address, bits })
        };
        read().ok_or_else(|| format!("`{text}` is no network\n  hint: write it like 10.0.0.0/8, or as one address like 10.1.2.3"))
    }
}

const fn v4(a: u8, b: u8, c: u8, bits: u8) -> Network {
    Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), bits }
}

const fn v6(a: u16, b: u16, bits: u8) -> Network {
    Network { address: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), bits }
}

/// What is not public, by IANA's registries of special addresses; of IPv6 within 2000::/3, as nothing outside of it is.
const NOT_PUBLIC: [Network; 18] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    // Between a provider and its customers.
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    // Link-local: the metadata services of clouds are here.
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    // Multicast, and what is reserved.
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
    // Teredo and its like: an IPv4 address hidden within.
    v6(0x2001, 0, 23),
    v6(0x2001, 0xdb8, 32),
    v6(0x3fff, 0, 20),
];
const GLOBAL_V6: Network = v6(0x2000, 0, 3);

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !NOT_PUBLIC.iter().any(|n| n.contains(address)),
        IpAddr::V6(v6) => match within(v6) {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => GLOBAL_V6.contains(address) && !NOT_PUBLIC.iter().any(|n| n.contains(address)),
        },
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, by 6to4, or by NAT64.
fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

impl WebhookOptions {
    fn admits(&self, address: IpAddr) -> bool {
        let plain = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        is_public(address) || self.networks.iter().any(|n| n.contains(plain))
    }

    /// Looks at a URL that something is to be sent to, in MLflow's words; a name that nobody knows at the moment is no reason against it.
    pub async fn check(&self, url: &str) -> Result<()> {
        let (host, port) = self.host(url)?;
        let lookup = tokio::net::lookup_host((host.as_str(), port));
        let Ok(Ok(found)) = tokio::time::timeout(LOOKUP, lookup).await else { return Ok(()) };
        let refused = found.map(|a| a.ip()).find(|ip| !self.admits(*ip));
        match refused {
            None => Ok(()),
            Some(address) => Err(Error::invalid(Refused { host: host.clone(), address }.to_string())),
        }
    }

    /// The host and port of a URL that may be sent to, as far as its text says.
    pub fn host(&self, url: &str) -> Result<(String, u16)> {
        let shown: String = url.chars().take(200).collect();
        if url.trim().is_empty() {
            return Err(Error::invalid(format!("Webhook URL cannot be empty or just whitespace: '{shown}'")));
        }
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let scheme = if is_scheme { scheme.to_ascii_lowercase() } else { String::new() };
        let port = match scheme.as_str() {
            "https" => 443,
            "http" if self.allow_http => 80,
            _ => {
                let allowed = if self.allow_http { "http, https" } else { "https" };
                return Err(Error::invalid(format!("Invalid webhook URL scheme: '{scheme}'. Allowed schemes are: {allowed}.")));
            }
        };
        let rest = url.split_once(':').map_or("", |(_, rest)| rest);
        let authority = rest.strip_prefix("//").unwrap_or_default().split(['/', '?', '#']).next().unwrap_or_default();
        if authority.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default().is_empty() {
            return Err(Error::invalid(format!("Webhook URL must include a hostname: '{shown}'")));
        }
        let uri: Uri = url.parse().map_err(|e| Error::invalid(format!("Invalid webhook URL '{shown}': {e}")))?;
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Ok((host.to_string(), uri.port_u16().unwrap_or(port)))
    }
}

/// Resolves names, and refuses those with an address that may not be called: the client connects to what it is answered here.
#[derive(Debug)]
pub struct CheckedResolver {
    pub options: WebhookOptions,
    pub names: DefaultResolver,
}

impl Resolver for CheckedResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.names.resolve(uri, config, timeout)?;
        match found.iter().map(|a| a.ip()).find(|ip| !self.options.admits(*ip)) {
            None => Ok(found),
            Some(address) => {
                let host = uri.host().unwrap_or_default().to_string();
                Err(ureq::Error::Other(Box::new(Refused { host, address })))
            }
        }
    }
}

/// An address that may not be called.
#[derive(Debug)]
pub struct Refused {
    host: String,
    address: IpAddr,
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Refused { host, address } = self;
        write!(f, "Webhook URL must not resolve to a non-public IP address. '{host}' resolves to {address}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_only_this_server_reaches_is_refused() {
        let strict = WebhookOptions::default();
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!strict.admits(ip(refused)), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(strict.admits(ip(public)), "{public}");
        }
    }

    #[test]
    fn a_network_that_is_named_is_admitted_and_no_other() {
        let options =
            WebhookOptions { networks: vec!["10.1.0.0/16".parse().unwrap(), "fd00::7".parse().unwrap()], ..WebhookOptions::default() };
        for admitted in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::7", "9.9.9.9"] {
            assert!(options.admits(ip(admitted)), "{admitted}");
        }
        for refused in ["10.2.0.1", "::ffff:10.2.0.1", "fd00::8", "127.0.0.1", "169.254.169.254"] {
            assert!(!options.admits(ip(refused)), "{refused}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("255.1.2.3")));
        for bad in ["", "10", "10.0.0.0/33", "10.0.0.0/", "fd00::/129", "example.com", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(bad.parse::<Network>().unwrap_err().contains("hint:"), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_url_is_looked_at_before_it_is_taken() {
        let strict = WebhookOptions::default();
        let open = WebhookOptions { allow_http: true, networks: vec!["127.0.0.0/8".parse().unwrap()] };
        for (url, words) in [
            ("", "Webhook URL cannot be empty or just whitespace: ''"),
            ("  ", "Webhook URL cannot be empty or just whitespace: '  '"),
            ("ftp://x", "Invalid webhook URL scheme: 'ftp'. Allowed schemes are: https."),
            ("http://example.com", "Invalid webhook URL scheme: 'http'. Allowed schemes are: https."),
            ("example.com/x", "Invalid webhook URL scheme: ''. Allowed schemes are: https."),
            ("https://", "Webhook URL must include a hostname: 'https://'"),
            ("https:///path", "Webhook URL must include a hostname: 'https:///path'"),
            ("https://user@:80/path", "Webhook URL must include a hostname: 'https://user@:80/path'"),
            ("https://a b/", "Invalid webhook URL 'https://a b/'"),
            ("https://127.0.0.1:8443/x", "Webhook URL must not resolve to a non-public IP address. '127.0.0.1' resolves to 127.0.0.1."),
            ("https://user:pw@10.0.0.1/", "Webhook URL must not resolve to a non-public IP address. '10.0.0.1' resolves to 10.0.0.1."),
            ("https://[::1]/", "Webhook URL must not resolve to a non-public IP address. '::1' resolves to ::1."),
            ("https://[::ffff:7f00:1]/", "Webhook URL must not resolve to a non-public IP address."),
            ("https://localhost/", "Webhook URL must not resolve to a non-public IP address. 'localhost' resolves to "),
            // Spellings that only the system's resolver knows.
            ("https://127.1/", "Webhook URL must not resolve to a non-public IP address. '127.1' resolves to 127.0.0.1."),
            ("https://2130706433/", "Webhook URL must not resolve to a non-public IP address. '2130706433' resolves to 127.0.0.1."),
        ] {
            let error = strict.check(url).await.unwrap_err().message;
            assert!(error.starts_with(words), "{url}: {error}");
        }
        assert_eq!(
            open.check("ftp://x").await.unwrap_err().message,
            "Invalid webhook URL scheme: 'ftp'. Allowed schemes are: http, https."
        );
        for good in ["http://127.0.0.1:9/x?y=z", "HTTPS://127.0.0.1", "https://1.1.1.1/", "https://nobody-knows-it.invalid/x"] {
            open.check(good).await.unwrap_or_else(|e| panic!("{good}: {e}"));
        }
    }
}
