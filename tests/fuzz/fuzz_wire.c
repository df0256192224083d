/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_wire: bytes of a hostile peer through the receive path of conn.c, over a transport that
 * hands them out in pieces. The first byte says how (piece size, owner's buffer, whether
 * checksums are mended so that the fuzzer gets behind them); the rest is the stream.
 */
#include "conn.h"
#include "log.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct transport {
	int fd;
};

static const uint8_t *stream;
static size_t stream_bytes, piece;
static bool over, refuse_once;
static uint8_t payload_buffer[WIRE_PAYLOAD_MAX];
static struct transport only;

static int fake_connect(const char *address, struct transport **out)
{
	(void)address;
	*out = &only;
	return 0;
}

static int fake_connected(struct transport *transport)
{
	(void)transport;
	return 0;
}

static ssize_t fake_readv(struct transport *transport, const struct iovec *iov, int count)
{
	size_t room = piece, done = 0;

	(void)transport;
	for (int i = 0; i < count && room && stream_bytes; i++) {
		size_t bytes = iov[i].iov_len < room ? iov[i].iov_len : room;

		if (bytes > stream_bytes)
			bytes = stream_bytes;
		memcpy(iov[i].iov_base, stream, bytes);
		stream += bytes;
		stream_bytes -= bytes;
		room -= bytes;
		done += bytes;
	}
	return (ssize_t)done;
}

static ssize_t fake_writev(struct transport *transport, const struct iovec *iov, int count)
{
	size_t bytes = 0;

	(void)transport;
	for (int i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	return (ssize_t)bytes;
}

static int fake_fd(const struct transport *transport)
{
	return transport->fd;
}

static const char *fake_name(const struct transport *transport)
{
	(void)transport;
	return "fuzz";
}

static void fake_close(struct transport *transport)
{
	(void)transport;
}

static const struct transport_ops fake = {
	.kind = "fuzz",
	.connect = fake_connect,
	.connected = fake_connected,
	.readv = fake_readv,
	.writev = fake_writev,
	.fd = fake_fd,
	.name = fake_name,
	.close = fake_close,
};

static void *on_payload(struct conn *conn, const struct wire_frame *frame, void *user)
{
	(void)user;
	if (frame->payload_bytes > sizeof(payload_buffer))
		abort();
	if (refuse_once) {
		refuse_once = false;
		conn_resume(conn); /* asked again from the loop */
		return NULL;
	}
	return payload_buffer;
}

static int on_frame(struct conn *conn, const struct wire_frame *frame, void *payload, void *user)
{
	uint8_t header[WIRE_HEADER_BYTES];
	struct wire_frame again;

	(void)conn;
	(void)user;
	wire_encode(frame, header);
	if (wire_decode(header, &again, NULL) ||
	    (frame->payload_bytes && wire_crc(payload, frame->payload_bytes) != frame->payload_crc))
		abort(); /* the owner sees good frames only */
	return 0;
}

static void on_closed(struct conn *conn, int error, const char *why, void *user)
{
	(void)error;
	(void)user;
	if (!why)
		abort();
	conn_close(conn);
	over = true;
}

/* Give headers where a stream would have them their magic and checksums. */
static void mend(uint8_t *data, size_t bytes)
{
	while (bytes >= WIRE_HEADER_BYTES) {
		uint32_t payload_bytes, crc, zero = 0;
		uint32_t magic = htole32(WIRE_MAGIC);
		uint16_t version = htole16(WIRE_VERSION);

		memcpy(data, &magic, 4);
		memcpy(data + 4, &version, 2);
		memcpy(&payload_bytes, data + 12, 4);
		payload_bytes = le32toh(payload_bytes);
		if (payload_bytes && payload_bytes <= bytes - WIRE_HEADER_BYTES) {
			crc = htole32(wire_crc(data + WIRE_HEADER_BYTES, payload_bytes));
			memcpy(data + 16, &crc, 4);
		}
		memcpy(data + 28, &zero, 4);
		crc = htole32(wire_crc(data, WIRE_HEADER_BYTES));
		memcpy(data + 28, &crc, 4);
		if (payload_bytes > bytes - WIRE_HEADER_BYTES)
			return;
		data += WIRE_HEADER_BYTES + payload_bytes;
		bytes -= WIRE_HEADER_BYTES + payload_bytes;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static sd_event *event;
	struct conn_ops ops = { .payload = on_payload, .frame = on_frame, .closed = on_closed };
	struct conn *conn;
	uint8_t *copy;

	if (bytes < 1)
		return 0;
	if (!event) {
		log_init("fuzz_wire", (enum log_level)0);
		only.fd = eventfd(1, EFD_CLOEXEC); /* readable and writable for ever */
		if (only.fd < 0 || sd_event_new(&event) < 0)
			abort();
	}
	copy = malloc(bytes);
	if (!copy)
		return 0;
	memcpy(copy, data + 1, bytes - 1);
	if (data[0] & 1)
		mend(copy, bytes - 1);
	if (data[0] & 2)
		ops.payload = NULL;
	refuse_once = data[0] & 4;
	piece = (data[0] >> 3) ? (size_t)(data[0] >> 3) * (data[0] >> 3) * 7 : SIZE_MAX;
	stream = copy;
	stream_bytes = bytes - 1;
	over = false;
	if (conn_connect(&conn, event, &fake, "", &ops, NULL))
		abort();
	while (!over) {
		if (sd_event_run(event, 0) < 0)
			abort();
	}
	free(copy);
	return 0;
}
