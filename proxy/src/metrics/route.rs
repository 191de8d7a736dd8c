//! Route patterns: the path with what looks like an identifier replaced by `{id}`.
//!
//! The pattern of a request is hashed and compared piece by piece as it is read from the path; it becomes a
//! string only when it is new.

use std::hash::{BuildHasher, Hash, Hasher};

use http::Method;

/// The route of all requests that are over the bound.
pub(super) const OVERFLOW: &str = "*";

/// What stands for a segment that is an identifier.
const PLACEHOLDER: &str = "/{id}";
/// Deeper paths end in this.
const DEEPER: &str = "/*";
const MAX_SEGMENTS: usize = 12;
/// Longer segments are data, not words.
const MAX_WORD: usize = 64;

/// The name under which a method counts. Methods that RFC 9110 and RFC 5789 don't know are "OTHER": clients
/// can invent as many as they like.
pub(super) fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "OTHER",
    }
}

/// A request's route pattern, not yet written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    /// Perhaps with a query.
    path: &'a str,
    /// A gRPC method: every part of it is a name.
    whole: bool,
}

impl<'a> Route<'a> {
    /// The pattern of a path, which may have a query.
    pub(super) fn new(path: &'a str, grpc: bool) -> Self {
        Self {
            path,
            whole: grpc && is_grpc_method(path),
        }
    }

    /// The pattern of what is over the bound.
    pub(super) fn overflow() -> Self {
        Self {
            path: OVERFLOW,
            whole: false,
        }
    }

    pub(super) fn hash(self, method: &'static str, state: &impl BuildHasher) -> u64 {
        let mut hasher = state.build_hasher();
        method.hash(&mut hasher);
        self.pieces(|piece| {
            hasher.write(piece.as_bytes());
            true
        });
        hasher.finish()
    }

    /// Whether this is the pattern written as `route`.
    pub(super) fn is(self, route: &str) -> bool {
        let mut rest = Some(route);
        self.pieces(|piece| {
            rest = rest.and_then(|rest| rest.strip_prefix(piece));
            rest.is_some()
        });
        rest.is_some_and(str::is_empty)
    }

    pub(super) fn write(self) -> Box<str> {
        let mut route = String::new();
        self.pieces(|piece| {
            route.push_str(piece);
            true
        });
        route.into()
    }

    /// Calls `each` with one segment after the other, its slash before it, as long as it wants more. Reads the path once:
    /// every request's is read.
    fn pieces(self, mut each: impl FnMut(&'a str) -> bool) {
        let mut rest = self.path;
        // CONNECT has an authority and `OPTIONS *` an asterisk in the place of a path.
        if !rest.starts_with('/') {
            each(OVERFLOW);
            return;
        }
        for _ in 0..MAX_SEGMENTS {
            let mut seen = 0;
            let segment = rest.bytes().skip(1).take_while(|byte| {
                let class = CLASSES[usize::from(*byte)];
                seen |= class;
                class != END
            });
            let (piece, next) = rest.split_at(1 + segment.count());
            let piece = match !self.whole && is_identifier(&piece[1..], seen & !END) {
                true => PLACEHOLDER,
                false => piece,
            };
            if !each(piece) || !next.starts_with('/') {
                return;
            }
            rest = next;
        }
        each(DEEPER);
    }
}

/// `/package.Service/Method`; of another shape, it is not a gRPC method whatever the status says.
fn is_grpc_method(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.bytes().filter(|byte| *byte == b'/').count() == 2 && path.len() <= 200
}

/// Whether a segment is more likely a value than a name: a number, a UUID, a hash, a token, a date, an
/// address, something percent-encoded. When in doubt it is a name: the number of routes is bounded elsewhere.
///
/// `seen`: the classes of all its bytes.
fn is_identifier(segment: &str, seen: u8) -> bool {
    if segment.len() > MAX_WORD {
        return true;
    }
    if seen & FOREIGN != 0 {
        return true;
    }
    if seen & DIGIT == 0 {
        return false;
    }
    let (mut digits, mut hex, mut letters, mut marks, mut turns) = (0, 0, 0, 0, 0);
    let mut last_digit = None;
    for byte in segment.bytes() {
        let class = CLASSES[usize::from(byte)];
        if class == MARK {
            marks += 1;
            continue;
        }
        let digit = class == DIGIT;
        digits += usize::from(digit);
        letters += usize::from(!digit);
        hex += usize::from(!digit && byte.is_ascii_hexdigit());
        // Words and version numbers change between letters and digits once or twice; random text often.
        turns += u32::from(last_digit.is_some_and(|last| last != digit));
        last_digit = Some(digit);
    }
    let length = segment.len();
    let number = letters == 0;
    let mostly_digits = digits >= 4 && digits * 2 >= length - marks;
    let hexadecimal = letters == hex && length - marks >= 8;
    let token = length >= 16 && digits >= 2 && turns >= 3;
    number || mostly_digits || hexadecimal || token
}

const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const MARK: u8 = 4;
/// Encoded, an e-mail address, not a path's character at all.
const FOREIGN: u8 = 8;
/// Ends a segment.
const END: u8 = 16;

/// The class of each byte of a path.
const CLASSES: [u8; 256] = {
    let mut classes = [FOREIGN; 256];
    let marks = b"-_=.~:+,()${}*!';";
    let mut at = 0;
    while at < marks.len() {
        classes[marks[at] as usize] = MARK;
        at += 1;
    }
    classes[b'/' as usize] = END;
    classes[b'?' as usize] = END;
    classes[b'#' as usize] = END;
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        if character.is_ascii_digit() {
            classes[byte] = DIGIT;
        } else if character.is_ascii_alphabetic() {
            classes[byte] = LETTER;
        }
        byte += 1;
    }
    classes
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(path: &str) -> String {
        Route::new(path, false).write().into()
    }

    #[test]
    fn identifiers_are_replaced() {
        for (path, expected) in [
            ("/", "/"),
            ("/users", "/users"),
            ("/users/", "/users/"),
            ("/users/42", "/users/{id}"),
            ("/users/42/orders?since=3", "/users/{id}/orders"),
            ("/v1/users", "/v1/users"),
            ("/api/v2beta1/things", "/api/v2beta1/things"),
            ("/o/123e4567-e89b-12d3-a456-426614174000", "/o/{id}"),
            ("/o/{123E4567-E89B-12D3-A456-426614174000}", "/o/{id}"),
            ("/c/9fceb02d0ae598e95dc970b74767f19372d61af8", "/c/{id}"),
            ("/c/deadbee1", "/c/{id}"),
            ("/facade/decade/deadbeef", "/facade/decade/deadbeef"),
            ("/s/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/s/{id}"),
            ("/n/V1StGXR8_Z5jdHi6B-myT", "/n/{id}"),
            ("/t/eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "/t/{id}"),
            ("/orders/ord_1029384/items", "/orders/{id}/items"),
            ("/orders/order-12345", "/orders/{id}"),
            ("/day/2024-01-31", "/day/{id}"),
            ("/ip/10.244.0.7", "/ip/{id}"),
            ("/mail/ada@example.org", "/mail/{id}"),
            ("/search/two%20words", "/search/{id}"),
            (
                "/getUserPreferencesByIdentifier",
                "/getUserPreferencesByIdentifier",
            ),
            ("/static/app.js", "/static/app.js"),
            ("/static/app-5f3a9c1b2d4e.js", "/static/{id}"),
            ("/a/b/c/d/e/f/g/h/i/j/k/l/m/n", "/a/b/c/d/e/f/g/h/i/j/k/l/*"),
            ("*", "*"),
            ("example.org:443", "*"),
            ("", "*"),
        ] {
            assert_eq!(pattern(path), expected, "{path}");
        }
    }

    #[test]
    fn grpc_methods_are_kept() {
        let path = "/shop.v1.Catalog20241231Service/ListItemsV2X3Y4Z5";
        assert_eq!(&*Route::new(path, true).write(), path);
        assert_eq!(
            &*Route::new("/users/42/orders", true).write(),
            "/users/{id}/orders"
        );
    }

    #[test]
    fn invented_methods_are_other() {
        assert_eq!(method_name(&Method::PATCH), "PATCH");
        assert_eq!(method_name(&Method::from_bytes(b"PURGE").unwrap()), "OTHER");
    }

    proptest! {
        #[test]
        fn hash_and_comparison_agree_with_the_text(path in "/?([a-z0-9{}*]{0,9}/?){0,15}", other in "/?([a-z0-9]{0,3}/?){0,3}") {
            let state = foldhash::fast::FixedState::default();
            let (route, other) = (Route::new(&path, false), Route::new(&other, false));
            let text = route.write();
            prop_assert!(route.is(&text));
            prop_assert_eq!(route.is(&other.write()), text == other.write());
            if text == other.write() {
                prop_assert_eq!(route.hash("GET", &state), other.hash("GET", &state));
            }
        }

        #[test]
        fn patterns_are_short_and_stable(path in "\\PC{0,300}") {
            let text = pattern(&path);
            prop_assert!(text.len() <= (MAX_WORD + 1) * (MAX_SEGMENTS + 1));
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
        }
    }
}
