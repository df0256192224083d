/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of io.c: the same behaviour from every engine, and under every fault. */
#include "io_faults.h"
#include "log.h"
#include "util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define COUNT 200u
#define BLOCK 8192u

struct fixture {
	sd_event *event;
	struct io_engine *engine;
	int fd;
};

struct transfer {
	struct io_request request;
	unsigned calls;
	int result;
};

static unsigned outstanding;
static struct transfer transfers[COUNT];

static void done(struct io_request *request, int result)
{
	struct transfer *transfer = request->user;

	transfer->calls++;
	transfer->result = result;
	outstanding--;
}

static void wait_all(struct fixture *fixture)
{
	uint64_t deadline = util_now_ms() + 20000;

	while (outstanding) {
		assert_true(sd_event_run(fixture->event, 1000000) >= 0);
		assert_true(util_now_ms() < deadline);
	}
	assert_int_equal(io_in_flight(fixture->engine), 0);
}

static void start(struct fixture *fixture, unsigned at, enum io_op op, void *data, uint64_t offset,
		  uint64_t bytes)
{
	transfers[at] = (struct transfer){ .request = { .op = op,
							.fd = fixture->fd,
							.buffer = -1,
							.data = data,
							.bytes = bytes,
							.offset = offset,
							.done = done,
							.user = &transfers[at] } };
	outstanding++;
	io_submit(fixture->engine, &transfers[at].request);
}

static int run_one(struct fixture *fixture, enum io_op op, void *data, uint64_t offset,
		   uint64_t bytes)
{
	start(fixture, 0, op, data, offset, bytes);
	assert_int_equal(transfers[0].calls, 0); /* from the loop only */
	wait_all(fixture);
	assert_int_equal(transfers[0].calls, 1);
	return transfers[0].result;
}

static void open_fixture(struct fixture *fixture, const struct io_ops *ops, unsigned depth)
{
	char path[] = "/var/tmp/test_io.XXXXXX";

	outstanding = 0;
	assert_true(sd_event_new(&fixture->event) >= 0);
	assert_int_equal(io_engine_new(&fixture->engine, fixture->event, ops, depth), 0);
	fixture->fd = mkostemp(path, O_CLOEXEC);
	assert_true(fixture->fd >= 0);
	unlink(path);
}

static void close_fixture(struct fixture *fixture)
{
	io_engine_free(fixture->engine);
	sd_event_unref(fixture->event);
	close(fixture->fd);
}

/* Write blocks, in more requests than the depth, read them back, see that each is whole. */
static void write_and_read(struct fixture *fixture)
{
	uint8_t *data = io_buffer_alloc(COUNT * BLOCK);
	uint8_t *back = io_buffer_alloc(COUNT * BLOCK);

	assert_non_null(data);
	assert_non_null(back);
	for (size_t i = 0; i < COUNT * BLOCK; i++)
		data[i] = (uint8_t)(i * 31 + i / BLOCK);
	memset(back, 0, COUNT * BLOCK);
	for (unsigned i = 0; i < COUNT; i++)
		start(fixture, i, IO_WRITE, data + i * BLOCK, i * BLOCK, BLOCK);
	assert_int_equal(io_in_flight(fixture->engine), COUNT);
	wait_all(fixture);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(transfers[i].calls, 1);
		assert_int_equal(transfers[i].result, 0);
	}
	assert_int_equal(run_one(fixture, IO_SYNC, NULL, 0, 0), 0);
	for (unsigned i = 0; i < COUNT; i++)
		start(fixture, i, IO_READ, back + i * BLOCK, i * BLOCK, BLOCK);
	wait_all(fixture);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(transfers[i].result, 0);
	assert_memory_equal(data, back, COUNT * BLOCK);
	free(data);
	free(back);
}

static void zero_and_errors(struct fixture *fixture)
{
	static uint8_t back[4 * BLOCK];
	bool zero = true;

	assert_int_equal(run_one(fixture, IO_ZERO, NULL, BLOCK, 2 * BLOCK), 0);
	assert_int_equal(run_one(fixture, IO_READ, back, 0, sizeof(back)), 0);
	for (size_t i = BLOCK; i < 3 * BLOCK; i++)
		zero = zero && !back[i];
	assert_true(zero);
	assert_int_equal(back[BLOCK - 1], (uint8_t)((BLOCK - 1) * 31));
	assert_int_equal(back[3 * BLOCK], (uint8_t)(3 * BLOCK * 31 + 3));
	assert_int_equal(run_one(fixture, IO_READ, back, COUNT * BLOCK, BLOCK), -ENODATA);
	assert_int_equal(run_one(fixture, IO_READ, back, COUNT * BLOCK - 512, BLOCK), -ENODATA);
	assert_int_equal(run_one(fixture, IO_READ, back, 0, 0), -EINVAL);
	assert_int_equal(run_one(fixture, IO_WRITE, back, UINT64_MAX - 1, 512), -EINVAL);
	start(fixture, 0, IO_READ, back, 0, 512);
	transfers[0].request.fd = -1;
	wait_all(fixture);
	assert_int_equal(transfers[0].result, -EBADF);
}

static void all_of_it(const struct io_ops *ops, unsigned depth)
{
	struct fixture fixture;

	open_fixture(&fixture, ops, depth);
	write_and_read(&fixture);
	zero_and_errors(&fixture);
	close_fixture(&fixture);
}

static void io_uring_engine(void **state)
{
	struct fixture fixture;
	uint8_t *buffer = io_buffer_alloc(2 * BLOCK);
	struct iovec iov = { buffer, 2 * BLOCK };

	(void)state;
	all_of_it(&io_uring_ops, 8);
	all_of_it(&io_uring_ops, 256);
	open_fixture(&fixture, &io_uring_ops, 4);
	assert_string_equal(io_engine_name(fixture.engine), "io_uring");
	assert_int_equal(io_engine_register(fixture.engine, &iov, 1), 0);
	memset(buffer, 0x5a, 2 * BLOCK);
	start(&fixture, 0, IO_WRITE, buffer, 0, BLOCK);
	transfers[0].request.buffer = 0;
	wait_all(&fixture);
	assert_int_equal(transfers[0].result, 0);
	start(&fixture, 0, IO_READ, buffer + BLOCK, 0, BLOCK);
	transfers[0].request.buffer = 0;
	wait_all(&fixture);
	assert_int_equal(transfers[0].result, 0);
	assert_int_equal(buffer[BLOCK], 0x5a);
	close_fixture(&fixture);
	free(buffer);
}

static void libaio_engine(void **state)
{
	(void)state;
	all_of_it(&io_libaio_ops, 8);
	all_of_it(&io_libaio_ops, 256);
}

static void default_engine(void **state)
{
	(void)state;
	all_of_it(NULL, 32);
}

static void reset_faults(void)
{
	io_faults = (struct io_faults){ .fail_op = -1 };
}

static void under_faults(void **state)
{
	(void)state;
	reset_faults();
	all_of_it(&io_faults_ops, 8);
	assert_int_equal(io_faults.most_in_flight, 8);
	reset_faults();
	io_faults.short_every = 2;
	io_faults.interrupt_every = 3;
	io_faults.push_again_every = 5;
	io_faults.submit_again_every = 2;
	io_faults.reorder = true;
	all_of_it(&io_faults_ops, 16);
	reset_faults();
	io_faults.no_zero_range = true;
	all_of_it(&io_faults_ops, 16);
	io_faults.no_punch = true;
	all_of_it(&io_faults_ops, 16);
}

static void errors_reach_their_own_request(void **state)
{
	static uint8_t data[BLOCK], back[BLOCK];
	struct fixture fixture;

	(void)state;
	reset_faults();
	memset(data, 7, sizeof(data));
	open_fixture(&fixture, &io_faults_ops, 4);
	assert_int_equal(ftruncate(fixture.fd, 10 * BLOCK), 0);
	io_faults.fail_op = IO_WRITE;
	io_faults.fail_at = 5;
	io_faults.error = -ENOSPC;
	io_faults.torn = true;
	for (unsigned i = 0; i < 10; i++)
		start(&fixture, i, IO_WRITE, data, i * BLOCK, BLOCK);
	wait_all(&fixture);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(transfers[i].result, i == 4 ? -ENOSPC : 0);
	assert_int_equal(run_one(&fixture, IO_READ, back, 4 * BLOCK, BLOCK), 0);
	assert_int_equal(back[0], 7);
	assert_int_equal(back[BLOCK - 1], 0);
	reset_faults();
	io_faults.interrupt_every = 1; /* for ever: gives up in the end */
	assert_int_equal(run_one(&fixture, IO_WRITE, data, 0, BLOCK), -EINTR);
	close_fixture(&fixture);
	reset_faults();
}

static struct fixture *freed_in_callback;

static void done_frees(struct io_request *request, int result)
{
	(void)request;
	(void)result;
	if (freed_in_callback) {
		io_engine_free(freed_in_callback->engine);
		freed_in_callback->engine = NULL;
	}
	freed_in_callback = NULL;
	outstanding = 0;
}

static void freeing_with_requests_in_flight(void **state)
{
	static const struct io_ops *const engines[] = { &io_uring_ops, &io_libaio_ops,
							&io_faults_ops };
	static uint8_t data[BLOCK];

	(void)state;
	for (size_t e = 0; e < ARRAY_LENGTH(engines); e++) {
		struct fixture fixture;

		open_fixture(&fixture, engines[e], 8);
		for (unsigned i = 0; i < 20; i++)
			start(&fixture, i, IO_WRITE, data, i * BLOCK, BLOCK);
		assert_true(sd_event_run(fixture.event, 0) >= 0);
		close_fixture(&fixture);
		open_fixture(&fixture, engines[e], 8);
		freed_in_callback = &fixture;
		for (unsigned i = 0; i < 20; i++) {
			start(&fixture, i, IO_WRITE, data, i * BLOCK, BLOCK);
			transfers[i].request.done = done_frees;
		}
		while (freed_in_callback)
			assert_true(sd_event_run(fixture.event, 1000000) >= 0);
		close_fixture(&fixture);
	}
}

static void a_callback_may_submit_again_done(struct io_request *request, int result)
{
	struct transfer *transfer = request->user;

	assert_int_equal(result, 0);
	if (++transfer->calls < 100)
		io_submit(request->data, request);
	else
		outstanding--;
}

static void a_callback_may_submit_again(void **state)
{
	struct fixture fixture;

	(void)state;
	open_fixture(&fixture, NULL, 1);
	start(&fixture, 0, IO_SYNC, fixture.engine, 0, 0);
	transfers[0].request.done = a_callback_may_submit_again_done;
	wait_all(&fixture);
	assert_int_equal(transfers[0].calls, 100);
	close_fixture(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(io_uring_engine),
		cmocka_unit_test(libaio_engine),
		cmocka_unit_test(default_engine),
		cmocka_unit_test(under_faults),
		cmocka_unit_test(errors_reach_their_own_request),
		cmocka_unit_test(freeing_with_requests_in_flight),
		cmocka_unit_test(a_callback_may_submit_again),
	};

	log_init("test_io", LOG_LEVEL_WARNING);
	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
