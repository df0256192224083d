/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of conn.c over TCP on loopback: both ends on one event loop, or one end a
 * plain socket that does what a good peer would not.
 */
#include "conn.h"
#include "log.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

struct end {
	struct conn *conn;
	struct conn_ops ops;
	unsigned connected, frames, writables, closeds, asked;
	int error;
	char why[256];
	struct wire_frame last;
	uint8_t *buffer; /* for payloads; NULL: pause */
	uint64_t bytes;
	uint64_t digest;
	bool close_at_frame, finish_at_frame, pause_at_frame, keep_last;
	int answer; /* of the frame callback */
	char text[512];
};

static sd_event *event;
static struct conn_listener *listener;
static struct end client, server;
static unsigned released;
static uint8_t big[WIRE_PAYLOAD_MAX];
static uint8_t server_buffer[WIRE_PAYLOAD_MAX];

static void on_connected(struct conn *conn, void *user)
{
	struct end *end = user;

	assert_ptr_equal(conn, end->conn);
	end->connected++;
}

static void *on_payload(struct conn *conn, const struct wire_frame *frame, void *user)
{
	struct end *end = user;

	(void)conn;
	assert_true(frame->payload_bytes > 0);
	end->asked++;
	return end->buffer;
}

static int on_frame(struct conn *conn, const struct wire_frame *frame, void *payload, void *user)
{
	struct end *end = user;

	assert_int_equal(end->closeds, 0);
	end->frames++;
	end->last = *frame;
	end->bytes += frame->payload_bytes;
	end->digest = wire_digest_add(end->digest, frame);
	if (frame->payload_bytes)
		assert_non_null(payload);
	if (frame->type == WIRE_ERROR)
		snprintf(end->text, sizeof(end->text), "%.*s", (int)frame->payload_bytes,
			 (char *)payload);
	if (end->pause_at_frame)
		conn_pause(conn);
	if (end->finish_at_frame) {
		conn_send_error(conn, 7, "busy", "a message", "a remedy", true);
		conn_finish(conn);
		end->conn = NULL;
	}
	if (end->close_at_frame) {
		conn_close(conn);
		end->conn = NULL;
	}
	return end->answer;
}

static void on_writable(struct conn *conn, void *user)
{
	struct end *end = user;

	(void)conn;
	end->writables++;
}

static void on_closed(struct conn *conn, int error, const char *why, void *user)
{
	struct end *end = user;

	end->closeds++;
	end->error = error;
	snprintf(end->why, sizeof(end->why), "%s", why);
	conn_close(conn);
	end->conn = NULL;
}

static void on_accepted(struct conn *conn, void *user)
{
	(void)user;
	server.conn = conn;
	conn_start(conn, &server.ops, &server);
}

static void release(void *arg)
{
	(void)arg;
	released++;
}

static int set_up(void **state)
{
	const struct conn_ops ops = { on_connected, on_payload, on_frame, on_writable, on_closed };

	(void)state;
	client = server = (struct end){ .ops = ops };
	client.buffer = server.buffer = server_buffer;
	released = 0;
	assert_true(sd_event_new(&event) >= 0);
	return conn_listen(&listener, event, &transport_tcp, "127.0.0.1:0", on_accepted, NULL);
}

static int tear_down(void **state)
{
	(void)state;
	conn_close(client.conn);
	conn_close(server.conn);
	conn_listener_close(listener);
	sd_event_unref(event);
	return 0;
}

#define RUN_UNTIL(condition)                                                      \
	do {                                                                      \
		uint64_t until = util_now_ms() + 10000;                           \
		while (!(condition)) {                                            \
			assert_true(sd_event_run(event, 50000) >= 0);             \
			if (util_now_ms() > until)                                \
				fail_msg("%s did not come true", #condition);     \
		}                                                                 \
	} while (0)

static void run_for(unsigned ms)
{
	uint64_t until = util_now_ms() + ms;

	while (util_now_ms() < until)
		assert_true(sd_event_run(event, 10000) >= 0);
}

static void connect_ends(void)
{
	assert_int_equal(conn_connect(&client.conn, event, &transport_tcp,
				      conn_listener_name(listener), &client.ops, &client), 0);
	assert_int_equal(client.connected, 0);
	RUN_UNTIL(client.connected && server.conn);
}

static int raw_connect(void)
{
	const char *name = conn_listener_name(listener);
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_port = htons((uint16_t)atoi(strrchr(name, ':') + 1));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static struct wire_frame data_frame(uint32_t seq, uint32_t bytes)
{
	return (struct wire_frame){ .type = WIRE_DATA,
				    .epoch = 1,
				    .attempt = 5,
				    .seq = seq,
				    .disk = 1,
				    .offset = (uint64_t)seq << 20,
				    .length = bytes,
				    .payload_bytes = bytes };
}

static void send_data(uint32_t seq, uint32_t bytes)
{
	struct wire_frame frame = data_frame(seq, bytes);

	assert_int_equal(conn_send(client.conn, &frame, false, big, release, NULL), 0);
}

static void frames_of_all_sizes_arrive(void **state)
{
	static const uint32_t sizes[] = { 512, 4096, 65536, 262144, 262144 - 64, 1048576, 131072 };
	uint64_t digest = 0, bytes = 0;
	uint32_t seq = 0;

	for (int in_place = 0; in_place < 2; in_place++) {
		if (in_place) {
			tear_down(state);
			set_up(state);
			server.ops.payload = NULL;
			digest = bytes = seq = 0;
		}
		connect_ends();
		for (unsigned i = 0; i < 700; i++) {
			uint32_t size = sizes[i * 5 % 7] / 512 * 512;
			struct wire_frame frame = data_frame(++seq, size);

			memset(big, (int)i, 64);
			frame.payload_crc = wire_crc(big, size);
			/* crc_known: a wrong payload would be noticed, so each is sent at once */
			assert_int_equal(conn_send(client.conn, &frame, true, big, release, NULL),
					 0);
			digest = wire_digest_add(digest, &frame);
			bytes += size;
			RUN_UNTIL(released == seq);
		}
		RUN_UNTIL(server.frames == 700);
		assert_true(server.digest == digest);
		assert_true(server.bytes == bytes);
		assert_int_equal(conn_queued_bytes(client.conn), 0);
	}
}

static void small_frames_in_bulk(void **state)
{
	struct wire_frame zero = { .type = WIRE_ZERO, .epoch = 1, .disk = 1, .length = 512 };

	(void)state;
	connect_ends();
	for (uint32_t i = 1; i <= 20000; i++) {
		zero.seq = i;
		assert_int_equal(conn_send(client.conn, &zero, false, NULL, NULL, NULL), 0);
	}
	RUN_UNTIL(server.frames == 20000);
	assert_int_equal(server.last.seq, 20000);
	assert_int_equal(server.asked, 0);
}

static void the_queue_is_bounded(void **state)
{
	struct wire_frame frame = data_frame(1, WIRE_PAYLOAD_MAX);
	unsigned sent = 0;

	(void)state;
	connect_ends();
	conn_pause(server.conn);
	while (!conn_send(client.conn, &frame, false, big, release, NULL))
		sent++;
	assert_int_equal(sent, 8);
	assert_int_equal(conn_send(client.conn, &frame, false, big, release, NULL), -EAGAIN);
	assert_int_equal(client.writables, 0);
	conn_resume(server.conn);
	RUN_UNTIL(server.frames == sent);
	assert_int_equal(client.writables, 1);
	assert_int_equal(released, sent);
	frame.disk = 0;
	assert_int_equal(conn_send(client.conn, &frame, false, big, release, NULL), -EINVAL);
}

static void an_owner_without_buffer_is_asked_again(void **state)
{
	(void)state;
	connect_ends();
	server.buffer = NULL;
	send_data(1, 4096);
	send_data(2, 65536);
	RUN_UNTIL(server.asked == 1);
	run_for(50);
	assert_int_equal(server.asked, 1);
	conn_resume(server.conn);
	RUN_UNTIL(server.asked == 2);
	assert_int_equal(server.frames, 0);
	server.buffer = server_buffer;
	conn_resume(server.conn);
	RUN_UNTIL(server.frames == 2);
	server.pause_at_frame = true;
	send_data(3, 4096);
	send_data(4, 4096);
	RUN_UNTIL(server.frames == 3);
	run_for(50);
	assert_int_equal(server.frames, 3);
	conn_resume(server.conn);
	RUN_UNTIL(server.frames == 4);
}

static void closing_from_a_callback(void **state)
{
	(void)state;
	connect_ends();
	server.close_at_frame = true;
	server.answer = -EIO; /* no closed() may follow */
	for (uint32_t i = 1; i <= 7; i++)
		send_data(i, 1048576);
	RUN_UNTIL(client.closeds);
	assert_int_equal(server.frames, 1);
	assert_int_equal(server.closeds, 0);
	assert_int_equal(released, 7);
}

static void refusing_a_frame_closes(void **state)
{
	(void)state;
	connect_ends();
	server.answer = -ENOSPC;
	send_data(1, 4096);
	RUN_UNTIL(server.closeds && client.closeds);
	assert_int_equal(server.error, -ENOSPC);
	assert_non_null(strstr(server.why, "DATA (epoch 1, frame 1)"));
}

static void finish_writes_what_is_queued(void **state)
{
	(void)state;
	connect_ends();
	server.finish_at_frame = true;
	for (uint32_t i = 1; i <= 7; i++)
		send_data(i, 1048576);
	RUN_UNTIL(client.closeds);
	assert_int_equal(client.frames, 1);
	assert_int_equal(client.last.type, WIRE_ERROR);
	assert_true(client.last.epoch == 7);
	assert_non_null(strstr(client.text, "\"code\":\"busy\""));
	assert_non_null(strstr(client.text, "\"fatal\":true"));
	assert_int_equal(server.frames, 1);
	run_for(50); /* the server's end frees itself: the leak checker would see if not */
}

static void nobody_listens(void **state)
{
	char address[64];

	(void)state;
	snprintf(address, sizeof(address), "%s", conn_listener_name(listener));
	conn_listener_close(listener);
	listener = NULL;
	assert_int_equal(conn_connect(&client.conn, event, &transport_tcp, address, &client.ops,
				      &client), 0);
	assert_int_equal(conn_send(client.conn, &(struct wire_frame){ .type = WIRE_PING }, false,
				   NULL, NULL, NULL),
			 -ENOTCONN);
	RUN_UNTIL(client.closeds);
	assert_int_equal(client.error, -ECONNREFUSED);
	assert_non_null(strstr(client.why, address));
	assert_int_equal(client.connected, 0);
}

static void bad_addresses(void **state)
{
	static const char *const bad[] = { "",		 ":",	   "x",	       "127.0.0.1",
					   "127.0.0.1:", "::1:80", "a.b.c:80", "127.0.0.1:http",
					   "[::1]",	 "[]:80",  ":80" };
	struct conn_listener *other;
	struct conn *conn;

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
		assert_int_equal(
			conn_connect(&conn, event, &transport_tcp, bad[i], &client.ops, NULL),
			-EINVAL);
		assert_int_equal(
			conn_listen(&other, event, &transport_tcp, bad[i], on_accepted, NULL),
			-EINVAL);
	}
	assert_int_equal(conn_listen(&other, event, &transport_tcp, "0.0.0.0:0", on_accepted, NULL),
			 -EACCES);
	assert_int_equal(conn_listen(&other, event, &transport_tcp, "[::]:0", on_accepted, NULL),
			 -EACCES);
	assert_int_equal(conn_listen(&other, event, &transport_tcp, conn_listener_name(listener),
				     on_accepted, NULL), -EADDRINUSE);
}

static void send_raw(const void *data, size_t bytes)
{
	int fd = raw_connect();

	assert_int_equal(send(fd, data, bytes, MSG_NOSIGNAL), bytes);
	RUN_UNTIL(server.conn);
	run_for(20);
	close(fd);
	RUN_UNTIL(server.closeds);
}

static void garbage_is_refused(void **state)
{
	(void)state;
	send_raw("GET / HTTP/1.1\r\nHost: somewhere.example\r\nAccept: everything\r\n\r\n", 64);
	assert_int_equal(server.error, -EPROTO);
	assert_non_null(strstr(server.why, "not a frame"));
	assert_int_equal(server.frames, 0);
}

static void bad_payload_is_refused(void **state)
{
	struct wire_frame frame = data_frame(3, 512);
	uint8_t bytes[WIRE_HEADER_BYTES + 512] = { 0 };

	(void)state;
	frame.payload_crc = 1;
	wire_encode(&frame, bytes);
	send_raw(bytes, sizeof(bytes));
	assert_int_equal(server.error, -EBADMSG);
	assert_non_null(strstr(server.why, "DATA (epoch 1, frame 3, disk 1"));
	assert_int_equal(server.frames, 0);
}

static void an_end_inside_a_frame_is_an_error(void **state)
{
	struct wire_frame frame = data_frame(1, 512);
	uint8_t bytes[WIRE_HEADER_BYTES + 512] = { 0 };

	wire_encode(&frame, bytes);
	send_raw(bytes, sizeof(bytes) - 1);
	assert_int_equal(server.error, -ECONNRESET);
	tear_down(state);
	set_up(state);
	send_raw(bytes, 10);
	assert_int_equal(server.error, -ECONNRESET);
	tear_down(state);
	set_up(state);
	send_raw(bytes, 0);
	assert_int_equal(server.error, 0);
}

static void byte_by_byte(void **state)
{
	struct wire_frame frame = data_frame(1, 512);
	uint8_t bytes[2 * (WIRE_HEADER_BYTES + 512)] = { 0 };
	int fd = raw_connect();

	(void)state;
	frame.payload_crc = wire_crc(bytes, 512);
	wire_encode(&frame, bytes);
	wire_encode(&frame, bytes + sizeof(bytes) / 2);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(send(fd, bytes + i, 1, 0), 1);
		run_for(0);
		assert_true(sd_event_run(event, 1000) >= 0);
	}
	RUN_UNTIL(server.frames == 2);
	close(fd);
}

static void a_silent_peer_is_dead(void **state)
{
	int fd = raw_connect();
	uint8_t header[WIRE_HEADER_BYTES];
	struct wire_frame frame;

	(void)state;
	RUN_UNTIL(server.conn);
	conn_set_deadlines(server.conn, 50, 300);
	RUN_UNTIL(server.closeds);
	assert_int_equal(server.error, -ETIMEDOUT);
	assert_int_equal(recv(fd, header, sizeof(header), MSG_WAITALL), sizeof(header));
	assert_int_equal(wire_decode(header, &frame, NULL), 0);
	assert_int_equal(frame.type, WIRE_PING);
	close(fd);
}

static void idle_and_paused_peers_live(void **state)
{
	(void)state;
	connect_ends();
	conn_set_deadlines(server.conn, 30, 200);
	conn_set_deadlines(client.conn, 30, 200);
	run_for(600);
	assert_int_equal(client.closeds + server.closeds, 0);
	conn_pause(server.conn);
	for (uint32_t i = 1; i <= 8; i++)
		send_data(i, 1048576);
	run_for(600);
	assert_int_equal(client.closeds + server.closeds, 0);
	conn_resume(server.conn);
	RUN_UNTIL(server.frames == 8);
}

static void a_peer_that_dies_while_paused_is_noticed(void **state)
{
	struct linger linger = { .l_onoff = 1 };
	int fd = raw_connect();

	(void)state;
	RUN_UNTIL(server.conn);
	conn_pause(server.conn);
	run_for(20);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd); /* a reset */
	RUN_UNTIL(server.closeds);
	assert_true(server.error < 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(frames_of_all_sizes_arrive),
		TEST(small_frames_in_bulk),
		TEST(the_queue_is_bounded),
		TEST(an_owner_without_buffer_is_asked_again),
		TEST(closing_from_a_callback),
		TEST(refusing_a_frame_closes),
		TEST(finish_writes_what_is_queued),
		TEST(nobody_listens),
		TEST(bad_addresses),
		TEST(garbage_is_refused),
		TEST(bad_payload_is_refused),
		TEST(an_end_inside_a_frame_is_an_error),
		TEST(byte_by_byte),
		TEST(a_silent_peer_is_dead),
		TEST(idle_and_paused_peers_live),
		TEST(a_peer_that_dies_while_paused_is_noticed),
	};

	log_init("test_conn", (enum log_level)0); /* expected errors are not for the reader */
	return cmocka_run_group_tests_name("conn", tests, NULL, NULL);
}
