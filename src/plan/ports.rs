//! The ports of EXPOSE: `[[address:]host:]container[-last][/protocol]`, of which the container's count.

use std::net::IpAddr;

/// The ports that a specification names, as `port/protocol`, lowest first.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn parse(specification: &str) -> Result<Vec<String>, String> {
    let mut parts = specification.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => return Err(format!("`{other}` is not a protocol of ports: tcp, udp and sctp are")),
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("`{bare}` is not an IP address"));
    }
    let (first, last) = port_range(range)?;
    if !host.is_empty() {
        let (host_first, host_last) = port_range(host)?;
        if last - first != host_last - host_first && first != last {
            return Err(format!("the ranges `{host}` and `{range}` are not equally long"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        let digits = text.strip_prefix('+').unwrap_or(text);
        digits.parse::<u16>().map_err(|_| match text {
            "" => "the port is missing".to_owned(),
            _ => format!("`{text}` is not a port: a number from 0 to 65535 is"),
        })
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first { Err(format!("the range `{text}` ends before it begins")) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("80", &["80/tcp"])]
    #[case("53/UDP", &["53/udp"])]
    #[case("8000-8002/sctp", &["8000/sctp", "8001/sctp", "8002/sctp"])]
    #[case("8080:80", &["80/tcp"])]
    #[case("127.0.0.1:8080:80", &["80/tcp"])]
    #[case("[::1]:8080:80/udp", &["80/udp"])]
    #[case("1-3:80", &["80/tcp"])]
    #[case("0", &["0/tcp"])]
    fn reads(#[case] text: &str, #[case] ports: &[&str]) {
        assert_eq!(parse(text).unwrap(), ports);
    }

    #[rstest]
    #[case("")]
    #[case("x")]
    #[case("65536")]
    #[case("-1")]
    #[case("90-80")]
    #[case("80/icmp")]
    #[case("1-2:80-83")]
    #[case("nohost:1:80")]
    fn refuses(#[case] text: &str) {
        assert!(parse(text).is_err());
    }
}
