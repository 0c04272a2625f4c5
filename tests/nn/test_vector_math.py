import numpy as np
import pytest
import torch

from scarches_widgets.nn import vector_math
from scarches_widgets.nn.vector_math import compiled, exp_of_negative, log, log_1_plus, log_1_plus_each

SMALLEST = np.finfo(np.float32).tiny


def applied(function, values):
    @vector_math.numba.njit(error_model="numpy")
    def loop(values, found):
        for i in range(len(values)):
            found[i] = function(values[i])

    found = np.empty_like(values)
    loop(values, found)
    return found


def units_in_the_last_place(found, exact):
    return np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize(
    ("ours", "exact", "values"),
    [
        (exp_of_negative, np.exp, -np.geomspace(1e-8, 87, 100_001)),
        (log, np.log, np.concatenate([np.geomspace(SMALLEST, 3e38, 100_001), np.linspace(0.5, 2, 100_001)])),
        (log_1_plus, np.log1p, np.geomspace(1e-12, 1e38, 100_001)),
    ],
)
def test_functions_are_right_to_two_units_in_the_last_place(ours, exact, values):
    values = values.astype(np.float32)
    assert units_in_the_last_place(applied(ours, values), exact(values.astype(np.float64))).max() <= 2


def test_what_is_not_a_number_stays_so_and_the_ends_are_finite():
    nan = np.array([np.nan], dtype=np.float32)
    assert np.isnan(applied(exp_of_negative, nan)) and np.isnan(applied(log_1_plus, nan))
    assert applied(exp_of_negative, np.float32([0, -1e9, -np.inf])).tolist() == [1, *[np.float32(np.exp(-87.0))] * 2]
    assert applied(log_1_plus, np.float32([0])) == 0


def test_logarithms_of_a_matrix_are_torch_s_however_it_lies_in_memory():
    values = torch.poisson(torch.full((30, 7), 3.0), generator=torch.Generator().manual_seed(0))
    for matrix in (values, values.T, values[:, 2:5], values[:0]):
        torch.testing.assert_close(log_1_plus_each(matrix), torch.log1p(matrix))


def test_where_no_folder_can_be_written_loops_are_compiled_for_this_process_alone(monkeypatch):
    def refuse(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return njit(*arguments, **options)

    njit = vector_math.numba.njit
    monkeypatch.setattr(vector_math.numba, "njit", refuse)

    @compiled()
    def twice(x):
        return 2 * x

    assert twice(21) == 42
