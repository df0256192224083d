/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz_control: any line as a control request: there is an answer, and it is one line of JSON. */
#include "control.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static json_t *handle(const char *command, const json_t *request, void *user)
{
	(void)user;
	if (!strcmp(command, "echo"))
		return json_pack("{s:b, s:O}", "ok", 1, "request", request);
	return control_error("try echo", "unknown command %s", command);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	json_t *answer = control_answer((const char *)data, bytes, handle, NULL);
	char *text;

	if (!answer || !json_is_boolean(json_object_get(answer, "ok")))
		abort();
	text = json_dumps(answer, JSON_COMPACT);
	if (!text || strchr(text, '\n'))
		abort();
	free(text);
	json_decref(answer);
	return 0;
}
