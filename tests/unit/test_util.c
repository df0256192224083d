/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of util.c and of log.c's memory of held messages. */
#include "log.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static char dir[64];

static int set_up(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_util.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

static void files_are_replaced(void **state)
{
	char path[128], error[200], temporary[140];
	json_t *json;

	(void)state;
	snprintf(path, sizeof(path), "%s/state", dir);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	assert_int_equal(util_read_json(path, &json, error, sizeof(error)), -ENOENT);
	assert_non_null(strstr(error, path));
	for (int i = 0; i < 3; i++) {
		json_t *out = json_pack("{s:i}", "n", i);

		assert_int_equal(util_write_json(path, out), 0);
		json_decref(out);
		assert_int_equal(util_read_json(path, &json, error, sizeof(error)), 0);
		assert_int_equal(json_integer_value(json_object_get(json, "n")), i);
		json_decref(json);
	}
	assert_int_equal(access(temporary, F_OK), -1);
	assert_int_equal(util_write_file(path, "{\"n\":", 5), 0);
	assert_int_equal(util_read_json(path, &json, error, sizeof(error)), -EBADMSG);
	assert_non_null(strstr(error, "line 1"));
	assert_null(json);
	snprintf(path, sizeof(path), "%s/none/state", dir);
	assert_int_equal(util_write_file(path, "x", 1), -ENOENT);
	assert_int_equal(util_write_file("", "x", 1), -ENOENT);
}

static void directories_are_made(void **state)
{
	char path[128];
	struct stat status;

	(void)state;
	snprintf(path, sizeof(path), "%s/a/b//c/", dir);
	assert_int_equal(util_mkdirs(path), 0);
	assert_int_equal(util_mkdirs(path), 0);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0700);
	snprintf(path, sizeof(path), "%s/file", dir);
	assert_int_equal(util_write_file(path, "x", 1), 0);
	assert_int_equal(util_mkdirs(path), -ENOTDIR);
	strcat(path, "/x");
	assert_int_equal(util_mkdirs(path), -ENOTDIR);
	assert_int_equal(util_mkdirs(""), -ENOENT);
}

static void sizes_of_files(void **state)
{
	char path[128];
	uint64_t bytes = 0;
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/disk", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 12288), 0);
	assert_int_equal(util_device_bytes(fd, &bytes), 0);
	assert_true(bytes == 12288);
	close(fd);
	fd = open("/dev/null", O_RDONLY);
	assert_int_equal(util_device_bytes(fd, &bytes), -ENOTBLK);
	close(fd);
}

static void clocks_and_chance(void **state)
{
	uint64_t before = util_now_ns();

	(void)state;
	assert_true(util_now_ns() >= before);
	assert_true(util_now_ms() >= before / 1000000);
	assert_true(util_wall_ms() > 1600000000000ull);
	assert_true(util_random() != util_random());
}

/* Run with stderr in a file; return what was written. */
static char *with_stderr_in_file(void (*run)(void))
{
	static char text[400 * 1024];
	char path[128];
	int saved = dup(STDERR_FILENO), fd;
	ssize_t got;

	snprintf(path, sizeof(path), "%s/log", dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	dup2(fd, STDERR_FILENO);
	log_init("test", LOG_LEVEL_INFO);
	run();
	dup2(saved, STDERR_FILENO);
	close(saved);
	got = pread(fd, text, sizeof(text) - 1, 0);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	return text;
}

static void say_plainly(void)
{
	log_error("disk %s: gone", "vda\nvdb");
	log_debug("not to be seen");
}

static void say_while_held(void)
{
	log_hold();
	for (int i = 0; i < 300; i++)
		log_info("message %d", i);
	say_plainly();
	log_flush();
	log_warning("after");
}

static void messages(void **state)
{
	char *text;

	(void)state;
	text = with_stderr_in_file(say_plainly);
	assert_non_null(strstr(text, "Z test: error: disk vda vdb: gone\n"));
	assert_null(strstr(text, "seen"));
	text = with_stderr_in_file(say_while_held);
	assert_non_null(strstr(text, "45 older messages were dropped"));
	assert_null(strstr(text, "message 44\n"));
	assert_non_null(strstr(text, "message 45\n"));
	assert_non_null(strstr(text, "message 299\n"));
	assert_non_null(strstr(text, "vda vdb"));
	assert_non_null(strstr(text, "warning: after\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_are_replaced), cmocka_unit_test(directories_are_made),
		cmocka_unit_test(sizes_of_files),     cmocka_unit_test(clocks_and_chance),
		cmocka_unit_test(messages),
	};

	return cmocka_run_group_tests_name("util", tests, set_up, tear_down);
}
