//! What the kernel's files of counters say.

/// A number; `max` is the largest.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// The value of a line `key value`.
pub(super) fn entry(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value)
}

/// Bytes read and written, from v1's lines `8:0 Read 4096`.
pub(super) fn blkio(text: &str) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for line in text.lines() {
        let mut parts = line.split_ascii_whitespace().skip(1);
        let (Some(what), Some(bytes)) = (parts.next(), parts.next()) else { continue };
        let bytes = bytes.parse().unwrap_or(0);
        match what {
            "Read" => sum.0 = sum.0.saturating_add(bytes),
            "Write" => sum.1 = sum.1.saturating_add(bytes),
            _ => {}
        }
    }
    sum
}

/// Bytes read and written, from v2's lines `8:0 rbytes=4096 wbytes=0 …`.
pub(super) fn io(text: &str) -> (u64, u64) {
    let mut sum = (0u64, 0u64);
    for part in text.split_ascii_whitespace() {
        let Some((key, bytes)) = part.split_once('=') else { continue };
        let bytes = bytes.parse().unwrap_or(0);
        match key {
            "rbytes" => sum.0 = sum.0.saturating_add(bytes),
            "wbytes" => sum.1 = sum.1.saturating_add(bytes),
            _ => {}
        }
    }
    sum
}

/// Bytes received and sent over all devices but `lo`, from /proc/PID/net/dev; `None` where there
/// is no other.
pub(super) fn network(text: &str) -> Option<(u64, u64)> {
    let device = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let mut counters = counters.split_ascii_whitespace();
        let received = counters.next()?.parse::<u64>().ok()?;
        let sent = counters.nth(7)?.parse::<u64>().ok()?;
        (name.trim() != "lo").then_some((received, sent))
    };
    let add = |a: (u64, u64), b: (u64, u64)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1));
    text.lines().filter_map(device).reduce(add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_entries() {
        assert_eq!(number("4096\n"), Some(4096));
        assert_eq!(number("max\n"), Some(u64::MAX));
        assert_eq!(number(""), None);
        let text = "inactive_file 7\ntotal_inactive_file 9\n";
        assert_eq!(entry(text, "inactive_file"), Some(7));
        assert_eq!(entry(text, "total_inactive_file"), Some(9));
        assert_eq!(entry(text, "inactive"), None);
    }

    #[test]
    fn devices_are_added_up() {
        let text =
            "8:0 Read 4096\n8:0 Write 10\n8:0 Sync 4106\n8:0 Total 4106\n253:0 Read 4\nTotal 9\n";
        assert_eq!(blkio(text), (4100, 10));
        let text = "8:0 rbytes=4096 wbytes=10 rios=1 wios=1\n253:0 rbytes=4 wbytes=0\n";
        assert_eq!(io(text), (4100, 10));
        assert_eq!((blkio(""), io("")), ((0, 0), (0, 0)));
    }

    #[test]
    fn loopback_does_not_count() {
        let head = "Inter-|   Receive |  Transmit\n face |bytes    packets errs drop fifo frame \
                    compressed multicast|bytes    packets\n";
        let lo = "    lo:  500 5 0 0 0 0 0 0  500 5 0 0 0 0 0 0\n";
        let eth = "  eth0: 1000 9 0 0 0 0 0 0   70 3 0 0 0 0 0 0\n";
        assert_eq!(network(&format!("{head}{lo}{eth}{eth}")), Some((2000, 140)));
        assert_eq!(network(&format!("{head}{lo}")), None);
    }
}
