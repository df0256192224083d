/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io_uring: the engine of choice behind io.h. Called by io.c only, always from the thread that
 * opened it (DEFER_TASKRUN asks for that). Completions are announced through a
 * registered eventfd: the ring's own descriptor does not wake epoll under DEFER_TASKRUN.
 */
#include "io.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>

struct uring {
	struct io_uring ring;
	struct iovec *buffers;
	unsigned buffer_count;
};

/* Best first: older kernels refuse what they do not know with EINVAL. */
static const unsigned setup_flags[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_CLAMP,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CLAMP,
	IORING_SETUP_CLAMP,
};

static int uring_probe(struct io_uring *ring)
{
	static const int needed[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC,
				      IORING_OP_FALLOCATE };
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	int error = 0;

	if (!probe)
		return -ENOSYS;
	for (size_t i = 0; i < ARRAY_LENGTH(needed); i++) {
		if (!io_uring_opcode_supported(probe, needed[i]))
			error = -ENOSYS;
	}
	io_uring_free_probe(probe);
	return error;
}

static int uring_open(unsigned depth, int eventfd, void **context)
{
	struct uring *uring = calloc(1, sizeof(*uring));
	int error = -EINVAL;

	if (!uring)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_LENGTH(setup_flags) && error == -EINVAL; i++)
		error = io_uring_queue_init(depth, &uring->ring, setup_flags[i]);
	if (error) {
		free(uring);
		return error;
	}
	error = uring_probe(&uring->ring);
	if (!error)
		error = io_uring_register_eventfd(&uring->ring, eventfd);
	if (error) {
		io_uring_queue_exit(&uring->ring);
		free(uring);
		return error;
	}
	*context = uring;
	return 0;
}

static int uring_register(void *context, const struct iovec *iov, unsigned count)
{
	struct uring *uring = context;
	struct iovec *copy = calloc(count, sizeof(*copy));
	int error;

	if (!copy)
		return -ENOMEM;
	if (uring->buffers) {
		free(copy);
		return -EBUSY;
	}
	error = io_uring_register_buffers(&uring->ring, iov, count);
	if (error) {
		free(copy);
		return error;
	}
	for (unsigned i = 0; i < count; i++)
		copy[i] = iov[i];
	uring->buffers = copy;
	uring->buffer_count = count;
	return 0;
}

/* A registered file is released with the ring, and that with its last request. */
static int uring_hold(void *context, int fd)
{
	struct uring *uring = context;

	return io_uring_register_files(&uring->ring, &fd, 1);
}

/* Whether the transfer lies in the registered buffer that the request names. */
static bool is_registered(const struct uring *uring, const struct io_request *request,
			  const char *data, uint64_t bytes)
{
	const struct iovec *iov;

	if (request->buffer < 0 || (unsigned)request->buffer >= uring->buffer_count)
		return false;
	iov = &uring->buffers[request->buffer];
	return data >= (char *)iov->iov_base &&
	       data + bytes <= (char *)iov->iov_base + iov->iov_len;
}

static void prepare_zero(struct io_uring_sqe *sqe, const struct io_request *request,
			uint64_t offset, uint64_t bytes)
{
	int mode = request->zero_way == IO_ZERO_RANGE ?
			   FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	io_uring_prep_fallocate(sqe, request->fd, mode, (off_t)offset, (off_t)bytes);
}

static int uring_push(void *context, struct io_request *request)
{
	struct uring *uring = context;
	uint64_t bytes = io_step_bytes(request);
	uint64_t offset = request->offset + request->moved;
	void *data = NULL;
	struct io_uring_sqe *sqe;

	if (request->op == IO_READ || request->op == IO_WRITE ||
	    (request->op == IO_ZERO && request->zero_way == IO_ZERO_WRITE)) {
		data = io_step_data(request);
		if (!data)
			return -ENOMEM;
	}
	sqe = io_uring_get_sqe(&uring->ring);
	if (!sqe)
		return -EAGAIN;
	switch (request->op) {
	case IO_READ:
		if (is_registered(uring, request, data, bytes))
			io_uring_prep_read_fixed(sqe, request->fd, data, (unsigned)bytes, offset,
						 request->buffer);
		else
			io_uring_prep_read(sqe, request->fd, data, (unsigned)bytes, offset);
		break;
	case IO_WRITE:
		if (is_registered(uring, request, data, bytes))
			io_uring_prep_write_fixed(sqe, request->fd, data, (unsigned)bytes, offset,
						  request->buffer);
		else
			io_uring_prep_write(sqe, request->fd, data, (unsigned)bytes, offset);
		break;
	case IO_SYNC:
		io_uring_prep_fsync(sqe, request->fd, IORING_FSYNC_DATASYNC);
		break;
	case IO_ZERO:
		if (data)
			io_uring_prep_write(sqe, request->fd, data, (unsigned)bytes, offset);
		else
			prepare_zero(sqe, request, offset, bytes);
		break;
	}
	io_uring_sqe_set_data(sqe, request);
	return 0;
}

static int uring_submit(void *context)
{
	struct uring *uring = context;
	int count;

	if (!io_uring_sq_ready(&uring->ring))
		return 0;
	count = io_uring_submit(&uring->ring);
	return count < 0 ? count : 0;
}

static int uring_reap(void *context, struct io_completion *completions, unsigned max)
{
	struct uring *uring = context;
	struct io_uring_cqe *cqes[64];
	unsigned count;
	int error;

	if (max > ARRAY_LENGTH(cqes))
		max = ARRAY_LENGTH(cqes);
	/* Under DEFER_TASKRUN completions come about only in here. */
	error = io_uring_get_events(&uring->ring);
	if (error < 0 && error != -EINTR && error != -EBUSY)
		return error;
	count = io_uring_peek_batch_cqe(&uring->ring, cqes, max);
	for (unsigned i = 0; i < count; i++) {
		completions[i].request = io_uring_cqe_get_data(cqes[i]);
		completions[i].result = cqes[i]->res;
	}
	io_uring_cq_advance(&uring->ring, count);
	return (int)count;
}

static void uring_close(void *context)
{
	struct uring *uring = context;

	io_uring_queue_exit(&uring->ring);
	free(uring->buffers);
	free(uring);
}

const struct io_ops io_uring_ops = {
	.name = "io_uring",
	.open = uring_open,
	.register_buffers = uring_register,
	.hold = uring_hold,
	.push = uring_push,
	.submit = uring_submit,
	.reap = uring_reap,
	.close = uring_close,
};
