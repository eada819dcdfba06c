//! Operation numbers: RFC 8881, section 18.

macro_rules! operations {
    ($($number:literal $name:ident,)*) => {
        /// An operation of a COMPOUND that this client sends, by its name in RFC 8881, section 18.
        #[allow(non_camel_case_types, reason = "the RFC's names")]
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum Op {
            $(
                #[doc = concat!("Operation ", stringify!($number), ".")]
                $name = $number,
            )*
        }
    };
}

operations! {
    3 ACCESS,
    4 CLOSE,
    5 COMMIT,
    6 CREATE,
    9 GETATTR,
    10 GETFH,
    11 LINK,
    12 LOCK,
    14 LOCKU,
    15 LOOKUP,
    18 OPEN,
    22 PUTFH,
    24 PUTROOTFH,
    25 READ,
    26 READDIR,
    28 REMOVE,
    29 RENAME,
    31 RESTOREFH,
    32 SAVEFH,
    34 SETATTR,
    37 VERIFY,
    38 WRITE,
    42 EXCHANGE_ID,
    43 CREATE_SESSION,
    44 DESTROY_SESSION,
    53 SEQUENCE,
    57 DESTROY_CLIENTID,
    58 RECLAIM_COMPLETE,
}
