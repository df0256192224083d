/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of control.c: requests are answered, everything else costs only the one who sent it.
 */
#include "control.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

static char dir[64], path[128];
static sd_event *event;
static struct control *control;
static atomic_bool stop;
static pthread_t server;

static json_t *handle(const char *command, const json_t *request, void *user)
{
	json_t *big;

	assert_ptr_equal(user, &event);
	if (!strcmp(command, "echo"))
		return json_pack("{s:b, s:O}", "ok", 1, "request", request);
	if (!strcmp(command, "big")) {
		big = json_array();
		for (int i = 0; i < 100000; i++)
			json_array_append_new(big, json_string("twenty bytes of text"));
		return json_pack("{s:b, s:o}", "ok", 1, "big", big);
	}
	if (!strcmp(command, "nothing"))
		return NULL;
	return control_error("try another", "unknown command %s", command);
}

static void *serve(void *unused)
{
	(void)unused;
	while (!stop)
		sd_event_run(event, 20000);
	return NULL;
}

static int set_up(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_control.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/run/x.sock", dir);
	assert_true(sd_event_new(&event) >= 0);
	assert_int_equal(control_new(&control, event, path, handle, &event), 0);
	stop = false;
	return pthread_create(&server, NULL, serve, NULL);
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	stop = true;
	pthread_join(server, NULL);
	control_free(control);
	sd_event_unref(event);
	assert_int_equal(access(path, F_OK), -1);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

static json_t *ask(const char *command)
{
	json_t *request = json_pack("{s:s}", "command", command), *answer;

	assert_int_equal(control_call(path, request, 5000, &answer), 0);
	json_decref(request);
	return answer;
}

static const char *message_of(json_t *answer)
{
	assert_true(json_is_false(json_object_get(answer, "ok")));
	return json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
}

static void requests_are_answered(void **state)
{
	json_t *answer = ask("echo");

	(void)state;
	assert_true(json_is_true(json_object_get(answer, "ok")));
	json_decref(answer);
	answer = ask("frobnicate");
	assert_string_equal(message_of(answer), "unknown command frobnicate");
	json_decref(answer);
	answer = ask("nothing");
	assert_non_null(strstr(message_of(answer), "out of memory"));
	json_decref(answer);
	answer = ask("big");
	assert_non_null(strstr(message_of(answer), "longer than"));
	json_decref(answer);
}

static int dial(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Return the first line, or "" when the server hung up. */
static const char *talk(int fd, const char *text, size_t bytes)
{
	static char line[4096];
	struct timeval timeout = { .tv_sec = 5 };
	size_t used = 0;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	while (bytes) {
		ssize_t put = send(fd, text, bytes, MSG_NOSIGNAL);

		if (put <= 0)
			break;
		text += put;
		bytes -= (size_t)put;
	}
	while (used < sizeof(line) - 1 && recv(fd, line + used, 1, 0) == 1) {
		if (line[used++] == '\n')
			break;
	}
	line[used] = '\0';
	return line;
}

static void nonsense_is_answered_with_an_error(void **state)
{
	static const char two[] = "{\"command\":\"echo\",\"n\":1}\n{\"command\":\"echo\",\"n\":2}"
				  "\n";
	int fd = dial();

	(void)state;
	assert_non_null(strstr(talk(fd, "hello\n", 6), "not JSON"));
	assert_non_null(strstr(talk(fd, "[1]\n", 4), "names no command"));
	assert_non_null(strstr(talk(fd, "{}\n", 3), "names no command"));
	assert_non_null(strstr(talk(fd, "\0\n", 2), "not JSON"));
	/* two requests at once get two answers */
	assert_non_null(strstr(talk(fd, two, sizeof(two) - 1), "\"n\":1"));
	assert_non_null(strstr(talk(fd, "", 0), "\"n\":2"));
	close(fd);
}

static void endless_requests_are_cut_off(void **state)
{
	char *text = malloc(3 << 20);
	int fd = dial();
	json_t *answer;

	(void)state;
	memset(text, 'x', 3 << 20);
	assert_string_equal(talk(fd, text, 3 << 20), "");
	close(fd);
	free(text);
	answer = ask("echo");
	json_decref(answer);
}

static void connections_are_bounded(void **state)
{
	struct pollfd poll_fd = { .events = POLLIN };
	json_t *answer;
	int fds[33];
	char byte;

	(void)state;
	for (int i = 0; i < 33; i++)
		fds[i] = dial();
	poll_fd.fd = fds[32];
	assert_int_equal(poll(&poll_fd, 1, 5000), 1);
	assert_int_equal(recv(fds[32], &byte, 1, 0), 0);
	for (int i = 0; i < 33; i++)
		close(fds[i]);
	poll(NULL, 0, 300);
	answer = ask("echo");
	json_decref(answer);
}

static void one_daemon_a_socket(void **state)
{
	struct control *second;
	struct stat status;
	sd_event *other;

	(void)state;
	assert_true(sd_event_new(&other) >= 0);
	assert_int_equal(control_new(&second, other, path, handle, NULL), -EADDRINUSE);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	sd_event_unref(other);
}

static void stale_socket_is_replaced(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct control *second;
	json_t *request, *answer;
	sd_event *other;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)state;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/stale", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	request = json_pack("{s:s}", "command", "echo");
	assert_int_equal(control_call(address.sun_path, request, 1000, &answer), -ECONNREFUSED);
	assert_int_equal(control_call("/tmp/no/such", request, 1000, &answer), -ENOENT);
	assert_true(sd_event_new(&other) >= 0);
	assert_int_equal(control_new(&second, other, address.sun_path, handle, NULL), 0);
	assert_int_equal(control_call(address.sun_path, request, 200, &answer), -ETIMEDOUT);
	control_free(second);
	sd_event_unref(other);
	json_decref(request);
}

static void other_files_are_left_alone(void **state)
{
	struct control *second;
	char file[128];
	sd_event *other;

	(void)state;
	snprintf(file, sizeof(file), "%s/file", dir);
	assert_int_equal(util_write_file(file, "x", 1), 0);
	assert_true(sd_event_new(&other) >= 0);
	assert_int_equal(control_new(&second, other, file, handle, NULL), -EEXIST);
	assert_int_equal(access(file, F_OK), 0);
	sd_event_unref(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_answered),
		cmocka_unit_test(nonsense_is_answered_with_an_error),
		cmocka_unit_test(endless_requests_are_cut_off),
		cmocka_unit_test(connections_are_bounded),
		cmocka_unit_test(one_daemon_a_socket),
		cmocka_unit_test(stale_socket_is_replaced),
		cmocka_unit_test(other_files_are_left_alone),
	};

	log_init("test_control", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests_name("control", tests, set_up, tear_down);
}
