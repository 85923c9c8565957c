//! Messages in a byte stream (RFC 6587): a length in front of each, or a line end behind it; told apart by the first byte,
//! message by message, since some senders mix them.
//!
//! Invariants: no more than one message is held; one that is longer than the limit is passed over and counted; a length
//! beyond [`LENGTH_MAX`] breaks the stream, since nothing behind it can be found again.

/// The longest length that is passed over rather than given up on.
const LENGTH_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
enum State {
    /// At the beginning of a message.
    #[default]
    Start,
    /// In the digits of a length.
    Length(usize),
    /// So many bytes of a message are to come.
    Counted(usize),
    /// In a message that ends with its line.
    Line,
    /// So many bytes to pass over.
    Skip(usize),
    /// To pass over until the line ends.
    SkipLine,
}

/// Takes a stream apart.
#[derive(Debug)]
pub struct Framing {
    most: usize,
    state: State,
    held: Vec<u8>,
    /// Messages passed over.
    pub too_long: u64,
    /// A length that cannot be.
    pub broken: bool,
}

impl Framing {
    /// A stream whose messages are at most so many bytes.
    pub fn new(most: usize) -> Framing {
        Framing { most, state: State::Start, held: Vec::new(), too_long: 0, broken: false }
    }

    /// Takes bytes; `each` gets every message that ends in them.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.broken {
                return;
            }
            match self.state {
                State::Start => match first {
                    b'1'..=b'9' => self.state = State::Length(0),
                    // Line ends and zeros between messages.
                    b'\n' | b'\r' | 0 => bytes = rest,
                    _ => self.state = State::Line,
                },
                State::Length(n) => match first {
                    b'0'..=b'9' if n <= LENGTH_MAX => {
                        self.state = State::Length(n * 10 + usize::from(first - b'0'));
                        self.held.push(first);
                        bytes = rest;
                    }
                    b' ' if n <= LENGTH_MAX => {
                        self.held.clear();
                        self.too_long += u64::from(n > self.most);
                        self.state = if n > self.most { State::Skip(n) } else { State::Counted(n) };
                        bytes = rest;
                    }
                    _ if n > LENGTH_MAX => self.broken = true,
                    // Digits that were no length: a line without a priority.
                    _ => self.state = State::Line,
                },
                State::Counted(left) => {
                    let (now, behind) = bytes.split_at(left.min(bytes.len()));
                    self.held.extend_from_slice(now);
                    bytes = behind;
                    self.state = State::Counted(left - now.len());
                    if left == now.len() {
                        self.finish(&mut each);
                    }
                }
                State::Line => {
                    let end = bytes.iter().position(|b| *b == b'\n' || *b == 0);
                    let (now, behind) = bytes.split_at(end.unwrap_or(bytes.len()));
                    bytes = behind;
                    if self.held.len() + now.len() > self.most {
                        self.held.clear();
                        self.too_long += 1;
                        self.state = State::SkipLine;
                    } else {
                        self.held.extend_from_slice(now);
                        if end.is_some() {
                            self.finish(&mut each);
                        }
                    }
                }
                State::Skip(left) => {
                    let n = left.min(bytes.len());
                    bytes = bytes.get(n..).unwrap_or_default();
                    self.state = if left == n { State::Start } else { State::Skip(left - n) };
                }
                State::SkipLine => {
                    bytes = rest;
                    if first == b'\n' || first == 0 {
                        self.state = State::Start;
                    }
                }
            }
        }
    }

    /// The stream ended: a line without an end is a message, a message cut off is none.
    pub fn end(&mut self, mut each: impl FnMut(&[u8])) {
        if matches!(self.state, State::Line) {
            self.finish(&mut each);
        }
    }

    fn finish(&mut self, each: &mut impl FnMut(&[u8])) {
        let message = self.held.strip_suffix(b"\r").unwrap_or(&self.held);
        if !message.is_empty() {
            each(message);
        }
        self.held.clear();
        self.state = State::Start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(most: usize, chunks: &[&[u8]]) -> (Vec<String>, u64, bool) {
        let mut framing = Framing::new(most);
        let mut out = Vec::new();
        let mut put = |m: &[u8]| out.push(String::from_utf8_lossy(m).into_owned());
        chunks.iter().for_each(|c| framing.feed(c, &mut put));
        framing.end(&mut put);
        (out, framing.too_long, framing.broken)
    }

    #[test]
    fn both_ways_of_rfc_6587_mixed_and_cut_anywhere() {
        let stream = b"6 <1>a\nb<2>line\r\n\n13 <3>0123456789<4>last";
        let want: (Vec<String>, u64, bool) =
            (vec!["<1>a\nb".into(), "<2>line".into(), "<3>0123456789".into(), "<4>last".into()], 0, false);
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(messages(100, &[a, b]), want, "{cut}");
        }
    }

    #[test]
    fn long_messages_are_passed_over() {
        let (got, long, broken) = messages(5, &[b"9 123456789<1>x\n<2>toolong\n<3>y\n"]);
        assert_eq!((got, long, broken), (vec!["<1>x".to_owned(), "<3>y".to_owned()], 2, false));
        assert!(messages(5, &[b"99999999999999999999 x"]).2);
    }

    proptest! {
        #[test]
        fn any_stream_is_taken_the_same_in_any_pieces(stream in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let (a, b) = stream.split_at(cut.min(stream.len()));
            prop_assert_eq!(messages(20, &[a, b]), messages(20, &[&stream]));
        }
    }
}
