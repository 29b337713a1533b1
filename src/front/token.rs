//! Where a client shows its token, and whether it is the right one.
//!
//! Pure. Nothing here is ever printed.

use subtle::ConstantTimeEq;

/// The token of a request: of `Authorization: Bearer` if it is there, else of `?token=`.
pub fn shown(authorization: Option<&[u8]>, query: Option<&str>) -> Option<Vec<u8>> {
    authorization.and_then(of_header).or_else(|| query.and_then(of_query))
}

/// Compares in a time that depends on the length alone.
pub fn same(shown: &[u8], right: &[u8]) -> bool {
    // An empty secret is no secret: whoever brings nothing would be let in.
    !right.is_empty() && bool::from(shown.ct_eq(right))
}

fn of_header(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii().to_vec())
}

fn of_query(query: &str) -> Option<Vec<u8>> {
    query.split('&').find_map(|pair| pair.strip_prefix("token=")).map(|value| decode(value.as_bytes()))
}

/// Undoes percent encoding. `+` is left alone: tokens have it in base64, and no browser encodes a blank so in a URL that
/// a script wrote.
pub fn decode(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_goes_before_the_query() {
        assert_eq!(shown(Some(b"bearer a"), Some("token=b")), Some(b"a".to_vec()));
        assert_eq!(shown(Some(b"Basic a"), Some("x=1&token=b%2Fc+d")), Some(b"b/c+d".to_vec()));
        assert_eq!(shown(None, Some("mytoken=b")), None);
        assert_eq!(shown(None, None), None);
    }

    #[test]
    fn what_is_not_percent_encoded_stays_as_it_is() {
        assert_eq!(decode(b"100%"), b"100%");
        assert_eq!(decode(b"%zz%4"), b"%zz%4");
        assert_eq!(decode(b"%41%e2%82%AC"), "A€".as_bytes());
    }

    #[test]
    fn an_empty_token_is_never_right() {
        assert!(!same(b"", b""));
        assert!(!same(b"ab", b"abc"));
        assert!(same(b"abc", b"abc"));
    }
}
