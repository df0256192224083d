/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wire: the frames that agent, process server and master target exchange, and
 * that the process server spools verbatim. Pure: bytes in, struct out; no I/O.
 *
 * A frame is a 64-byte little-endian header and payload_bytes of payload.
 * The header carries its own CRC32C and that of the payload, so a frame is
 * checked alike on the wire, in the spool, and before it touches a target disk.
 *
 * One connection carries one machine. The order upstream to downstream is
 *
 *	HELLO  ( BEGIN ( DATA | ZERO )* VERIFY* TAG? END  |  BEGIN ... ABORT  |  PING )*
 *
 * and downstream answers HELLO_ACK, ACK, ERROR, PONG. An epoch that was begun
 * and not ended when a new BEGIN or the end of the connection comes is dropped.
 * docs/wire-format.md is the reference.
 */
#ifndef REPROTECT_WIRE_H
#define REPROTECT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_MAGIC 0x31545052u /* "RPT1" */
#define WIRE_VERSION 2u
#define WIRE_HEADER_BYTES 64u
#define WIRE_PAYLOAD_MAX (1024u * 1024u)
#define WIRE_JSON_MAX (256u * 1024u) /* payload of HELLO, HELLO_ACK, ERROR, ACK */
#define WIRE_TAG_MAX (64u * 1024u)   /* payload of TAG */
#define WIRE_SECTOR 512u	     /* offsets and lengths are multiples of this */

/**
 * enum wire_type - what a frame is
 * @WIRE_HELLO: JSON. {"program","version","machine" (uuid),"host",
 *	"disks":[{"id","name","size_bytes","granule_bytes"}],"committed" (last
 *	epoch that the sender has forgotten, 0: none)}. The process server passes the agent's on
 *	with "via" added.
 * @WIRE_HELLO_ACK: JSON. {"program","version","last_complete" (last epoch held
 *	durably here or further down),"last_applied","max_epoch_bytes",
 *	"max_epoch" (highest epoch number ever seen, also incomplete ones; new epochs must be above),
 *	and from the master target "partial":{"epoch","attempt","seq"} or null: go on with frame seq}
 * @WIRE_BEGIN: opens an epoch. offset: the previous epoch (0: none); length:
 *	bytes expected, an estimate for progress bars; flags: WIRE_EPOCH_*.
 * @WIRE_DATA: payload is the content of [offset, offset + length) of disk.
 *	length == payload_bytes.
 * @WIRE_ZERO: that range is zero. No payload.
 * @WIRE_VERIFY: after all DATA and ZERO: payload is the XXH3-128 (canonical, 16
 *	bytes) of that range as the source has it. length <= 64 MiB.
 * @WIRE_END: seq: number of the frame as always (BEGIN is 0); offset: digest (wire_digest_add over all DATA,
 *	ZERO, VERIFY and TAG frames); length: bytes in DATA and ZERO frames; flags: WIRE_END_*.
 * @WIRE_ABORT: the epoch that was begun will not be ended.
 * @WIRE_ACK: epoch, attempt; flags: one of WIRE_ACK_*. For PROGRESS seq is the
 *	next frame wanted, all before it being durable. APPLIED may carry JSON
 *	{"mismatch":[{"disk","offset","length"}]} of VERIFY frames that differ.
 *	APPLIED | RELEASED answers a final epoch that is verified.
 * @WIRE_ERROR: JSON {"code","message","remedy","fatal"}: code is a word
 *	("resync-needed", "target-refused", "version", "bad-frame", "busy",
 *	"downstream-unreachable", "released", "io", "no-space"); fatal: the sender closes.
 * @WIRE_PING: answered by PONG; both are handled inside conn.c.
 * @WIRE_TAG: last before the END of an epoch that ends as WIRE_END_CONSISTENT, at most one. JSON
 *	{"kind" ("crash" or "app"), "name", "time" (RFC 3339, UTC, ms: wall clock of the cut), "epoch",
 *	"scripts":[{"path","phase","exit","ms","output"}], "filesystems":[{"point","type","frozen"}]}.
 */
enum wire_type {
	WIRE_HELLO = 1,
	WIRE_HELLO_ACK,
	WIRE_BEGIN,
	WIRE_DATA,
	WIRE_ZERO,
	WIRE_VERIFY,
	WIRE_END,
	WIRE_ABORT,
	WIRE_ACK,
	WIRE_ERROR,
	WIRE_PING,
	WIRE_PONG,
	WIRE_TAG,
	WIRE_TYPE_MAX = WIRE_TAG
};

#define WIRE_EPOCH_FUZZY (1u << 0)   /* read from the live disk: will not end as consistent */
#define WIRE_EPOCH_INITIAL (1u << 1) /* part of an initial sync or resync: more follows */
#define WIRE_EPOCH_FINAL (1u << 2)   /* failback: verify, then release the targets */

/*
 * With the epoch applied, the target is what the source was at the cut. Known only when all has been
 * read, so it stands here and not in BEGIN.
 */
#define WIRE_END_CONSISTENT (1u << 0)

#define WIRE_ACK_SPOOLED (1u << 0)
#define WIRE_ACK_APPLIED (1u << 1)
#define WIRE_ACK_PROGRESS (1u << 2)
#define WIRE_ACK_RELEASED (1u << 3)

#define WIRE_VERIFY_BYTES_MAX (64u * 1024u * 1024u)

/**
 * struct wire_frame - a header in host order
 * @type: enum wire_type
 * @flags: see the type
 * @payload_bytes: length of the payload
 * @payload_crc: CRC32C of the payload, 0 when there is none
 * @epoch: number of the epoch, 0 outside one
 * @attempt: random number that tells one sending of an epoch from the next
 * @offset: bytes, see the type
 * @length: bytes, see the type
 * @disk: id from the HELLO
 * @seq: number of the frame in its epoch; BEGIN is 0
 */
struct wire_frame {
	uint16_t type;
	uint32_t flags;
	uint32_t payload_bytes;
	uint32_t payload_crc;
	uint64_t epoch;
	uint64_t attempt;
	uint64_t offset;
	uint64_t length;
	uint32_t disk;
	uint32_t seq;
};

/** wire_encode - write @frame as WIRE_HEADER_BYTES at @out, header CRC included */
void wire_encode(const struct wire_frame *frame, void *out);

/**
 * wire_decode - check a header and read it
 *
 * Checks magic, version, CRC, type, that payload_bytes fits the type, that
 * offset + length does not overflow and is aligned for DATA, ZERO, VERIFY, and
 * that length == payload_bytes for DATA. Return: 0; -EPROTO not a frame;
 * -EPROTONOSUPPORT another version; -EBADMSG bad header CRC; -EINVAL fields
 * that make no sense. @why (may be NULL) gets a static text.
 */
int wire_decode(const void *in, struct wire_frame *frame, const char **why);

/** wire_crc - CRC32C of @bytes bytes at @data */
uint32_t wire_crc(const void *data, size_t bytes);

/**
 * wire_digest_add - @digest with @frame added; the order does not matter. All fields count,
 * payload_crc too: the sender fills it in first (and tells conn_send @crc_known).
 */
uint64_t wire_digest_add(uint64_t digest, const struct wire_frame *frame);

/** wire_in_digest - whether frames of @type count in the digest of their epoch */
bool wire_in_digest(unsigned type);

/** wire_type_name - "DATA" for WIRE_DATA; "?" for what is unknown */
const char *wire_type_name(unsigned type);

/** wire_is_zero - whether @bytes (a multiple of 64) bytes at @data are all zero */
bool wire_is_zero(const void *data, size_t bytes);

/** wire_hash - XXH3-128, canonical (big endian) form, into @out[16] */
void wire_hash(const void *data, size_t bytes, uint8_t out[16]);

/* The same over several pieces. */
struct wire_hasher;
struct wire_hasher *wire_hasher_new(void);
void wire_hasher_reset(struct wire_hasher *hasher);
void wire_hasher_add(struct wire_hasher *hasher, const void *data, size_t bytes);
void wire_hasher_end(struct wire_hasher *hasher, uint8_t out[16]);
void wire_hasher_free(struct wire_hasher *hasher);

#endif
