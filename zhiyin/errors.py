"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend; shown as one line, exit code 2, no traceback.

    The message says what was being done, what was seen, what is allowed and what to do next, e.g.
    ``task 'asrr' is not known; known: asr srwt ved ser ssr sgc sap sttc ast (did you mean 'asr'?)``.
    """
