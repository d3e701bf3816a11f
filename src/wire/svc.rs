//! SVCB and HTTPS records (RFC 9460) of a configuration, encoded once.

/// Keys of service parameters (RFC 9460, 14.3.2).
mod key {
    pub(super) const MANDATORY: u16 = 0;
    pub(super) const ALPN: u16 = 1;
    pub(super) const NO_DEFAULT_ALPN: u16 = 2;
    pub(super) const PORT: u16 = 3;
    pub(super) const IPV4HINT: u16 = 4;
    pub(super) const ECH: u16 = 5;
    pub(super) const IPV6HINT: u16 = 6;
    pub(super) const INVALID: u16 = 65_535;
}

/// The service parameters of one record; empty ones are omitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SvcParams {
    /// Keys that a client must understand.
    pub mandatory: Vec<u16>,
    /// Protocol ids, 1 to 255 bytes each.
    pub alpn: Vec<Vec<u8>>,
    /// The scheme's default protocol is not supported.
    pub no_default_alpn: bool,
    /// Another port than the scheme's default.
    pub port: Option<u16>,
    /// IPv4 addresses of the target.
    pub v4: Vec<[u8; 4]>,
    /// Configurations for an encrypted ClientHello.
    pub ech: Vec<u8>,
    /// IPv6 addresses of the target.
    pub v6: Vec<[u8; 16]>,
    /// Other keys and their values.
    pub others: Vec<(u16, Vec<u8>)>,
}

impl SvcParams {
    /// Returns a mandatory key that is not given (RFC 9460, 8).
    #[must_use]
    pub fn lacks(&self) -> Option<u16> {
        let is_given = |key: u16| match key {
            // Encoding finds that the key mandatory is not mandatory itself.
            key::MANDATORY => true,
            key::ALPN => !self.alpn.is_empty(),
            key::NO_DEFAULT_ALPN => self.no_default_alpn,
            key::PORT => self.port.is_some(),
            key::IPV4HINT => !self.v4.is_empty(),
            key::ECH => !self.ech.is_empty(),
            key::IPV6HINT => !self.v6.is_empty(),
            _ => self.others.iter().any(|(other, _)| *other == key),
        };
        self.mandatory.iter().copied().find(|key| !is_given(*key))
    }

    /// Encodes the parameters, keys ascending.
    fn encode(&self) -> Result<Vec<u8>, &'static str> {
        let is_other = |key: u16| key > key::IPV6HINT && key != key::INVALID;
        if !self.others.iter().all(|(key, _)| is_other(*key)) {
            return Err("a further key is from 7 to 65534");
        }
        let mut all: Vec<(u16, Vec<u8>)> = self.others.clone();
        let mut add = |key, value| all.push((key, value));
        if !self.mandatory.is_empty() {
            let mut keys = self.mandatory.clone();
            keys.sort_unstable();
            keys.dedup();
            if keys.first() == Some(&key::MANDATORY) {
                return Err("the key mandatory cannot be mandatory");
            }
            if keys.len() < self.mandatory.len() {
                return Err("a key is mandatory twice");
            }
            add(key::MANDATORY, keys.into_iter().flat_map(u16::to_be_bytes).collect());
        }
        if !self.alpn.is_empty() {
            let mut list = Vec::new();
            for id in &self.alpn {
                match u8::try_from(id.len()) {
                    Ok(length @ 1..) => list.push(length),
                    _ => return Err("a protocol id has 1 to 255 bytes"),
                }
                list.extend_from_slice(id);
            }
            add(key::ALPN, list);
        }
        if self.no_default_alpn {
            if self.alpn.is_empty() {
                return Err("noDefaultAlpn needs alpn");
            }
            add(key::NO_DEFAULT_ALPN, Vec::new());
        }
        if let Some(port) = self.port {
            add(key::PORT, port.to_be_bytes().to_vec());
        }
        if !self.v4.is_empty() {
            add(key::IPV4HINT, self.v4.concat());
        }
        if !self.ech.is_empty() {
            add(key::ECH, self.ech.clone());
        }
        if !self.v6.is_empty() {
            add(key::IPV6HINT, self.v6.concat());
        }
        all.sort_unstable();
        if all.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("a key is given twice");
        }
        let mut wire = Vec::new();
        for (key, value) in all {
            let length = u16::try_from(value.len()).map_err(|_| "a value has at most 65535 bytes")?;
            wire.extend(key.to_be_bytes());
            wire.extend(length.to_be_bytes());
            wire.extend(value);
        }
        Ok(wire)
    }
}

/// One SVCB or HTTPS record, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvcRecord {
    /// Lower ones are tried first; 0 is an alias.
    pub priority: u16,
    /// The plain wire name of the target; the root means the owner.
    pub target: Vec<u8>,
    /// The parameters in wire format, keys ascending, hints included.
    pub params: Vec<u8>,
    /// The IPv4 hints, for additional records.
    pub v4: Vec<[u8; 4]>,
    /// The IPv6 hints, for additional records.
    pub v6: Vec<[u8; 16]>,
}

impl SvcRecord {
    /// Creates a record; `target` is a plain wire name.
    ///
    /// # Errors
    /// What is wrong with the parameters.
    pub fn new(priority: u16, target: Vec<u8>, params: &SvcParams) -> Result<Self, &'static str> {
        let encoded = params.encode()?;
        if priority == 0 && !encoded.is_empty() {
            return Err("a record of priority 0 is an alias, which has no parameters");
        }
        Ok(Self { priority, target, params: encoded, v4: params.v4.clone(), v6: params.v6.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_in_the_order_of_their_keys() {
        let params = SvcParams {
            mandatory: vec![4, 3],
            alpn: vec![b"h2".to_vec(), b"dot".to_vec()],
            no_default_alpn: true,
            port: Some(853),
            v4: vec![[192, 0, 2, 1], [192, 0, 2, 2]],
            ech: b"abc".to_vec(),
            v6: vec![[9; 16]],
            others: vec![(65280, b"x".to_vec()), (7, b"/q".to_vec())],
        };
        let mut expected =
            b"\0\0\0\x04\0\x03\0\x04\0\x01\0\x07\x02h2\x03dot\0\x02\0\0\0\x03\0\x02\x03\x55".to_vec();
        expected.extend(b"\0\x04\0\x08\xc0\0\x02\x01\xc0\0\x02\x02\0\x05\0\x03abc\0\x06\0\x10");
        expected.extend([9; 16]);
        expected.extend(b"\0\x07\0\x02/q\xff\0\0\x01x");
        let record = SvcRecord::new(1, vec![0], &params).unwrap();
        assert_eq!((record.params, record.v4, record.v6), (expected, params.v4, params.v6));
        assert_eq!(SvcRecord::new(0, vec![0], &SvcParams::default()).unwrap().params, b"");
    }

    #[test]
    fn invalid_parameters_are_refused() {
        let empty = SvcParams::default();
        for wrong in [
            SvcParams { mandatory: vec![3, 0], ..empty.clone() },
            SvcParams { mandatory: vec![3, 3], port: Some(1), ..empty.clone() },
            SvcParams { no_default_alpn: true, ..empty.clone() },
            SvcParams { others: vec![(2, b"x".to_vec())], ..empty.clone() },
            SvcParams { others: vec![(65_535, Vec::new())], ..empty.clone() },
            SvcParams { alpn: vec![Vec::new()], ..empty.clone() },
            SvcParams { alpn: vec![vec![b'a'; 256]], ..empty.clone() },
            SvcParams { port: Some(1), others: vec![(3, vec![0, 1])], ..empty.clone() },
            SvcParams { ech: vec![0; 65_536], ..empty },
        ] {
            assert!(SvcRecord::new(1, vec![0], &wrong).is_err(), "{wrong:?}");
        }
        let port = SvcParams { port: Some(1), ..SvcParams::default() };
        assert!(SvcRecord::new(0, vec![0], &port).is_err(), "an alias with parameters");
    }
}
